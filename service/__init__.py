"""The items service: a microservice on PostgreSQL whose data access takes sets."""

__version__ = "1.0.0"
