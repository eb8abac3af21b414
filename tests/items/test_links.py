"""The Link header of a list (RFC 8288), which links to the neighbouring pages."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2 as httpx
import pytest
from fastapi import FastAPI, Request
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.http.paging import cursor_links, page_links
from service.schemas import listing as schemas
from tests.support.lists import ids_of, store_many, store_names
from tests.support.problems import check_refused

LINK = re.compile(r"<([\w.~:/?@!$&'()*+,;=%-]*)>; rel=\"(first|prev|next|last)\"", re.ASCII)
NAMES = ["Lamp", "Torch", "a&b+ü lamp", "Bulb", "Lamp", "Candle", "A lamp", "Lamp", "A&B+Ü l"] * 2
QUERIES = ["", "sort=-name&q=a%26b%2B%c3%bc+l&is_active=true", "count=exact&sort=price"]


def links_of(header: str) -> dict[str, str]:
    """Return the addresses in a Link header by their relation; all of it must be well formed."""
    links = {}
    for link in header.split(", "):
        match = LINK.fullmatch(link)
        assert match, header
        assert match[2] not in links
        links[match[2]] = match[1]
    return links


async def follow(client: httpx.AsyncClient, address: str) -> tuple[Any, dict[str, str]]:
    """Return a page and its links."""
    answer = await client.get(address)
    assert answer.status_code == 200, answer.text
    return answer.json(), links_of(answer.headers["link"])


async def test_a_page_links_to_those_around_it(client: httpx.AsyncClient, app: FastAPI) -> None:
    await store_many(app, 45)
    for query, pages in [
        ("", {"first": 1, "next": 2, "last": 3}),
        ("page=1", {"first": 1, "next": 2, "last": 3}),
        ("page=2", {"first": 1, "prev": 1, "next": 3, "last": 3}),
        ("page=3", {"first": 1, "prev": 2, "last": 3}),
        ("page=4", {"first": 1, "prev": 3, "last": 3}),
        ("page=9", {"first": 1, "prev": 3, "last": 3}),
        ("count=exact", {"first": 1, "next": 2, "last": 3}),
        ("count=none&page=2", {"first": 1, "prev": 1, "next": 3}),
        ("count=none&page=3", {"first": 1, "prev": 2}),
        ("q=thing&page=2", {"first": 1, "prev": 1, "next": 3, "last": 3}),
        ("q=no+such", {"first": 1}),
        ("q=no+such&page=9", {"first": 1, "prev": 1}),
    ]:
        _, links = await follow(client, f"/items?{query}")
        kept = "".join(f"{part}&" for part in query.split("&") if part and "page" not in part)

        assert links == {rel: f"/items?{kept}page={page}" for rel, page in pages.items()}


@pytest.mark.parametrize("query", QUERIES)
async def test_links_lead_through_all_pages_and_back(
    client: httpx.AsyncClient, app: FastAPI, query: str
) -> None:
    await store_names(app, *NAMES)
    whole = (await follow(client, f"/items?{query}&per_page=100"))[0]["items"]
    page, links = await follow(client, f"/items?{query}&per_page=3")
    forth = list(page["items"])
    while "next" in links and len(forth) <= len(whole):
        page, links = await follow(client, links["next"])
        forth += page["items"]

    assert forth == whole
    assert (await follow(client, links["last"]))[0] == page
    back = list(page["items"])
    while "prev" in links and len(back) <= len(whole):
        page, links = await follow(client, links["prev"])
        back[:0] = page["items"]

    assert back == whole
    assert (await follow(client, links["first"]))[0] == page


@pytest.mark.parametrize("query", QUERIES)
async def test_a_page_by_cursor_links_to_the_next_and_the_first(
    client: httpx.AsyncClient, app: FastAPI, query: str
) -> None:
    await store_names(app, *NAMES)
    whole = (await follow(client, f"/items?{query}&per_page=100"))[0]["items"]
    first, _ = await follow(client, f"/items?{query}&per_page=3")
    seen, page = list(first["items"]), first
    links = {"next": f"/items?cursor={first['next_cursor']}&page=1&{query}&per_page=3"}
    while "next" in links and len(seen) <= len(whole):
        page, links = await follow(client, links["next"])
        seen += page["items"]

        assert links.keys() == {"first"} | ({"next"} if page["next_cursor"] else set())
        assert links["first"] == f"/items?{query}&per_page=3".replace("?&", "?")

    assert seen == whole
    assert (await follow(client, links["first"]))[0] == first


AROUND = {"first": {"page": "1"}, "prev": {"page": "2"}, "next": {"page": "4"}}
ON = {"first": {}, "next": {"cursor": "abc"}}


def request_for(query: bytes, path: str = "/items") -> Request:
    return Request({"type": "http", "path": path, "query_string": query, "headers": []})


def fields_of(query: bytes | str) -> dict[str, str]:
    """Return the parameters, as the service reads them."""
    text = query if isinstance(query, str) else query.decode(errors="surrogateescape")
    return dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))


def check_links(header: str, expected: Mapping[str, Mapping[str, str]], query: bytes) -> None:
    """Assert that each link has the parameters of `query`, but for its own place in the list."""
    kept = {name: v for name, v in fields_of(query).items() if name not in ("page", "cursor")}
    links = links_of(header)
    assert links.keys() == expected.keys()
    for relation, address in links.items():
        parts = urlsplit(address)
        assert (parts.scheme, parts.netloc, parts.path) == ("", "", "/items")
        assert parts.fragment == ""
        assert fields_of(parts.query) == {**kept, **expected[relation]}


@hypothesis_settings(
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow],  # depends on the machine
)
@given(query=st.text("q=&%+;<>\"', \r\n#?pagecursor25\u00fc", max_size=30).map(str.encode))
def test_links_keep_every_parameter(query: bytes) -> None:
    check_links(page_links(request_for(query), 3, None, 9, "abc"), AROUND, query)
    check_links(cursor_links(request_for(query), "abc"), ON, query)


@pytest.mark.parametrize(
    "place",
    [b"", b"page=7&", b"cursor=x&", b"page=1&page=2&cursor=&", b"%70age=7&", b"%63ursor=x&"],
)
def test_the_place_in_a_link_replaces_that_of_the_request(place: bytes) -> None:
    for rest in (b"", b'q=">; rel="last"', b"q=\xff", b"q=a b\r\nX-Evil: 1", b"q=%4", b"&&q=a&&"):
        query = place + rest

        check_links(page_links(request_for(query), 3, None, 9, "abc"), AROUND, query)
        check_links(cursor_links(request_for(query), "abc"), ON, query)


@pytest.mark.parametrize("path", ["/a>b", '/"', "/a b", "/ü", "/a?b", "/%", "/a\r\nb"])
def test_no_path_breaks_out_of_its_links(path: str) -> None:
    (address,) = links_of(page_links(request_for(b"", path), 1, None, 9, None)).values()

    assert httpx.URL(f"http://test{address}").path == path


@pytest.mark.parametrize(
    ("page", "last", "next_cursor", "places"),
    [
        (9, None, "abc", {"next": {"cursor": "abc"}}),
        (8, None, "abc", {"next": {"page": "9"}}),
        (9, 9, None, {"last": {"page": "9"}}),
        (9, 10, "abc", {"next": {"cursor": "abc"}}),  # the last is deeper than a page may be
        (8, 9, "abc", {"next": {"page": "9"}, "last": {"page": "9"}}),
    ],
)
def test_no_link_leads_beyond_the_deepest_page(
    page: int, last: int | None, next_cursor: str | None, places: dict[str, dict[str, str]]
) -> None:
    header = page_links(request_for(b"q=a"), page, last, 9, next_cursor)
    around = {"first": {"page": "1"}, "prev": {"page": str(page - 1)}}

    check_links(header, around | places, b"q=a")


async def test_links_lead_past_the_deepest_page_by_cursor(
    client: httpx.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schemas, "MAX_DEPTH", 7)
    await store_names(app, *NAMES)
    _, links = await follow(client, "/items?sort=-name&per_page=2&page=2")
    assert links["next"] == "/items?sort=-name&per_page=2&page=3"

    page, links = await follow(client, links["next"])
    assert links["next"] == f"/items?sort=-name&per_page=2&cursor={page['next_cursor']}"
    beyond, _ = await follow(client, links["next"])

    check_refused(await client.get("/items?per_page=2&page=4"), "page")
    assert ids_of(beyond["items"]) == [10, 8]
