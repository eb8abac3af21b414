"""Slotted dataclasses: the form that data has inside the service. Standard library only."""
