"""Prices of any resource."""

from decimal import Decimal

MAX_PRICE = Decimal("9999999999.99")  # the largest NUMERIC(12,2)
