"""Each path accepts its own methods, and HEAD wherever it accepts GET."""

import re

import httpx2 as httpx

from tests.support.problems import MARK, check_problem

PAGES = ["/docs", "/openapi.json", "/static-offline-docs/favicon.png"]


async def test_a_405_names_every_method_of_the_path(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    methods = {path: {method.upper() for method in paths[path]} for path in paths}
    methods |= {page: {"GET"} for page in PAGES}
    for path, declared in methods.items():
        allowed = declared | {"HEAD"} if "GET" in declared else declared
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - allowed:
            answer = await client.request(method, re.sub("{.*}", "1", path))

            check_problem(answer, 405, "method-not-allowed")
            assert set(answer.headers["allow"].split(", ")) == allowed


async def test_an_unknown_method_is_refused_and_not_repeated(client: httpx.AsyncClient) -> None:
    answer = await client.request(MARK.upper(), "/items")

    check_problem(answer, 405, "method-not-allowed")
    assert MARK.upper() not in answer.text


async def test_head_returns_what_get_does_without_the_body(client: httpx.AsyncClient) -> None:
    await client.post("/items", json={"name": "Lamp"})
    paths = list((await client.get("/openapi.json")).json()["paths"])
    for path in [*paths, *PAGES, "/items?per_page=0", "/nowhere"]:
        address = re.sub("{.*}", "1", path)
        head, get = await client.head(address), await client.get(address)

        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        # Problems differ in the length of their request ids; a stream has no length.
        if get.is_success and "content-length" in get.headers:
            assert head.headers["content-length"] == str(len(get.content))
