"""Data access: every function takes many and answers many, in one SQL statement.

The functions know neither Pydantic nor FastAPI. They take plain mappings, answer with slotted
dataclasses, and never commit: whoever opened the transaction does.
"""
