"""The item that tests create when its content does not matter."""

from typing import Any

LAMP: dict[str, Any] = {"name": "Lamp", "price": 29.99}
