"""Reading what /metrics exposes."""

import asyncio
from collections.abc import Callable

import httpx2 as httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import TIMEOUT

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""The value of each sample, by its name and labels."""


def parse(text: str) -> Samples:
    """Read an exposition."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return one sample; 0 if it is missing, as before the first event."""
    return samples.get((name, frozenset(labels.items())), 0.0)


async def scrape(client: httpx.AsyncClient) -> Samples:
    """Read the metrics of the application that `client` calls."""
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return parse(answer.text)


def grown(before: Samples, after: Samples, name: str, **labels: str) -> float:
    """Return how much one sample has grown."""
    return value(after, name, **labels) - value(before, name, **labels)


async def scrape_until(
    client: httpx.AsyncClient, condition: Callable[[Samples], object]
) -> Samples:
    """Read the metrics, which are updated with a delay, until `condition` holds."""
    async with asyncio.timeout(TIMEOUT):
        while not condition(samples := await scrape(client)):  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0.02)
    return samples
