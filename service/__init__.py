"""The items service: a microservice on PostgreSQL whose data access takes sets."""

__version__ = "0.1.0"
