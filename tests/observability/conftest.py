"""Fixtures of the tests of logs and metrics."""

import pytest

from service.observability import metrics


@pytest.fixture(autouse=True)
def _fresh_scrapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scrape of an application in this process shows the present values."""
    monkeypatch.setattr(metrics, "SCRAPE_INTERVAL", 0.0)
