"""Items over HTTP: what every resource does."""

from tests.support.resource import Resource
from tests.support.resource_tests import ResourceTests


class TestItems(ResourceTests):
    resource = Resource(
        path="/items",
        kinds={
            "name": "title",
            "description": "text?",
            "price": "price?",
            "is_active": "bool",
        },
        sorts=["id", "name", "price", "created_at", "updated_at"],
        filters={
            "is_active": "is_active",
            "q": "name",
            "price_min": "price",
            "price_max": "price",
            "created_after": "created_at",
            "created_before": "created_at",
            "updated_after": "updated_at",
        },
        deactivates=True,
    )
