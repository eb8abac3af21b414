"""Data access: every function takes a set of calls and returns their answers, in one statement."""
