"""Slotted dataclasses, the form of data inside the service. Standard library only."""
