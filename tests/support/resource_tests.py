"""The tests that every resource inherits."""

import csv
import json
from typing import Any, ClassVar

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service.database.engine import transactional
from service.state import state_of
from tests.support.problems import check_problem, check_refused
from tests.support.resource import WRONG, WRONG_SQL, Resource

ROWS = 30


class ResourceTests:
    """What a resource does over HTTP."""

    resource: ClassVar[Resource]

    async def create(self, client: httpx.AsyncClient, seed: int = 0) -> Any:
        """Create a row; return it."""
        answer = await client.post(self.resource.path, json=self.resource.content(seed))
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def fill(self, client: httpx.AsyncClient) -> list[Any]:
        """Create many rows in one request; return them."""
        body = {"items": [self.resource.content(seed) for seed in range(ROWS)]}
        answer = await client.post(f"{self.resource.path}/bulk", json=body)
        assert answer.status_code == 201, answer.text
        rows: list[Any] = answer.json()["items"]
        return rows

    async def page(self, client: httpx.AsyncClient, **params: Any) -> Any:
        """Return a page of the list."""
        answer = await client.get(self.resource.path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def test_a_created_row_can_be_read_and_listed(self, client: httpx.AsyncClient) -> None:
        for seed in range(5):
            answer = await client.post(self.resource.path, json=self.resource.content(seed))
            row = answer.json()

            assert (answer.status_code, answer.headers["etag"]) == (201, '"1"')
            assert {name: row[name] for name in self.resource.kinds} == self.resource.content(seed)
            assert (await client.get(answer.headers["location"])).json() == row
            assert (await self.page(client, sort="-id"))["items"][0] == row

    async def test_omitted_fields_have_their_defaults(self, client: httpx.AsyncClient) -> None:
        content = self.resource.required() | self.resource.defaults()
        created = (await client.post(self.resource.path, json=self.resource.required())).json()
        other = await self.create(client)
        replaced = await client.put(
            f"{self.resource.path}/{other['id']}", json=self.resource.required()
        )

        assert {name: created[name] for name in self.resource.kinds} == content
        assert {name: replaced.json()[name] for name in self.resource.kinds} == content
        assert replaced.json()["version"] == 2

    async def test_patch_changes_the_fields_that_are_sent(self, client: httpx.AsyncClient) -> None:
        row = await self.create(client)
        for name, kind in self.resource.kinds.items():
            for value in self.resource.values_of(name):
                answer = await client.patch(f"{self.resource.path}/{row['id']}", json={name: value})
                row |= {name: value, "version": row["version"] + 1}
                row["updated_at"] = answer.json()["updated_at"]

                assert answer.json() == row
            if not kind.endswith("?"):
                answer = await client.patch(f"{self.resource.path}/{row['id']}", json={name: None})
                check_problem(answer, 422, "invalid-input")

    async def test_invalid_content_is_refused_by_name(self, client: httpx.AsyncClient) -> None:
        for name, kind in self.resource.kinds.items():
            for value in WRONG[kind.removesuffix("?")]:
                body = self.resource.content(0) | {name: value}
                for answer in (
                    await client.post(self.resource.path, json=body),
                    await client.post(
                        f"{self.resource.path}/bulk",
                        json={"items": [self.resource.content(0), body]},
                    ),
                ):
                    (error,) = check_problem(answer, 422, "invalid-input")["errors"]
                    assert error["pointer"].rpartition("/")[2] == name
        assert (await self.page(client))["total"] == 0

    async def test_the_table_refuses_what_the_api_refuses(
        self, client: httpx.AsyncClient, app: FastAPI
    ) -> None:
        await self.create(client)
        async with transactional(state_of(app).engine).connect() as conn:
            for name, kind in self.resource.kinds.items():
                wrong = WRONG_SQL.get(kind.removesuffix("?"), [])
                for value in [*wrong, *([] if kind.endswith("?") else ["NULL"])]:
                    statement = text(f"UPDATE {self.resource.path[1:]} SET {name} = {value}")
                    savepoint = await conn.begin_nested()
                    with pytest.raises(DBAPIError):
                        await conn.execute(statement)
                    await savepoint.rollback()

    async def test_a_write_with_an_old_version_is_refused(self, client: httpx.AsyncClient) -> None:
        row = await self.create(client)
        address = f"{self.resource.path}/{row['id']}"
        changed = await client.put(
            address, json=self.resource.content(1), headers={"If-Match": '"1"'}
        )
        assert changed.headers["etag"] == '"2"'
        for method, body in (
            ("PUT", self.resource.content(2)),
            ("PATCH", self.resource.content(2)),
            ("DELETE", None),
        ):
            answer = await client.request(method, address, json=body, headers={"If-Match": '"1"'})
            check_problem(answer, 412, "precondition-failed")

        unmodified = await client.get(address, headers={"If-None-Match": '"2"'})
        assert unmodified.status_code == 304
        assert (await client.get(address)).json() == changed.json()

    async def test_delete_and_what_is_missing(self, client: httpx.AsyncClient) -> None:
        row, other = await self.create(client, 0), await self.create(client, 1)
        address = f"{self.resource.path}/{row['id']}"
        if self.resource.deactivates:
            await client.patch(address, json={"is_active": True})
            assert (await client.delete(address)).status_code == 204
            assert (await client.get(address)).json()["is_active"] is False
            address += "?permanent=true"
        assert (await client.delete(address)).status_code == 204
        for method, body in (
            ("GET", None),
            ("PUT", self.resource.content(2)),
            ("PATCH", self.resource.content(2)),
        ):
            answer = await client.request(method, address.partition("?")[0], json=body)
            check_problem(answer, 404, "not-found")
        assert (await client.delete(address)).status_code == 404
        assert (await self.page(client))["items"] == [other]

    async def test_pages_and_cursors_divide_the_list_in_every_order(
        self, client: httpx.AsyncClient
    ) -> None:
        rows = await self.fill(client)
        for sort in [minus + column for column in self.resource.sorts for minus in ("", "-")]:
            expected = self.resource.in_order(rows, sort)
            for count in ("capped", "none"):
                found, page = [], await self.page(client, sort=sort, per_page=7, count=count)
                while True:
                    found += page["items"]
                    if page["next_cursor"] is None or len(found) > len(rows):
                        break
                    page = await self.page(
                        client, sort=sort, per_page=7, count=count, cursor=page["next_cursor"]
                    )
                assert found == expected, sort
            for number in (1, 2, 5, 6):
                page = await self.page(client, sort=sort, per_page=7, page=number)
                assert page["items"] == expected[number * 7 - 7 : number * 7], sort
                assert page["total"] == len(rows)

    async def test_filters_select_rows_of_lists_and_exports(
        self, client: httpx.AsyncClient
    ) -> None:
        rows = await self.fill(client)
        for filter_, value in self.resource.wanted(rows):
            expected = [row for row in rows if self.resource.passes(row, filter_, value)]
            for params in ({"sort": "id"}, {"sort": "-id"}, {"sort": "-created_at"}):
                page = await self.page(client, per_page=100, **params, **{filter_: value})
                assert page["items"] == self.resource.in_order(expected, params["sort"]), (
                    filter_,
                    value,
                )
                assert page["total"] == len(expected)
            exported = await client.get(f"{self.resource.path}/export", params={filter_: value})
            assert [line["id"] for line in map(json.loads, exported.text.splitlines())] == [
                row["id"] for row in expected
            ]

    async def test_filters_combine_and_divide_into_pages(self, client: httpx.AsyncClient) -> None:
        rows = await self.fill(client)
        wanted = dict(self.resource.wanted(rows))
        for one, other in zip(wanted, [*wanted][1:], strict=False):
            params = {one: wanted[one], other: wanted[other]}
            expected = [
                r for r in rows if all(self.resource.passes(r, *pair) for pair in params.items())
            ]
            page = await self.page(client, per_page=2, count="none", **params)
            found = page["items"]
            while page["next_cursor"] is not None and len(found) <= len(rows):
                page = await self.page(client, per_page=2, cursor=page["next_cursor"], **params)
                found += page["items"]
            assert found == expected, params

    async def test_unknown_parameters_and_sorts_are_refused_by_name(
        self, client: httpx.AsyncClient
    ) -> None:
        for column in {*self.resource.kinds} - {*self.resource.sorts}:
            check_refused(await client.get(self.resource.path, params={"sort": column}), "sort")
        check_refused(await client.get(self.resource.path, params={"colour": "red"}), "colour")
        for filter_, column in self.resource.filters.items():
            wrong = "\x00" if filter_ == "q" else "wrong"
            for path in (self.resource.path, f"{self.resource.path}/export"):
                check_refused(await client.get(path, params={filter_: wrong}), filter_)
            assert column in (*self.resource.kinds, "created_at", "updated_at")

    async def test_an_index_serves_every_sort_flag_and_search(self, app: FastAPI) -> None:
        table = self.resource.path[1:]
        async with state_of(app).engine.connect() as conn:
            statement = text("SELECT indexname FROM pg_indexes WHERE tablename = :table")
            indexes = {*await conn.scalars(statement, {"table": table})}
            has_trigrams = await conn.scalar(
                text("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'")
            )
        kinds = self.resource.kinds
        for column in self.resource.sorts[1:]:
            is_nullable = kinds.get(column, "").endswith("?")
            assert f"ix_{table}_{column}{'_key' if is_nullable else ''}_id" in indexes
        for name, kind in kinds.items():
            if kind.startswith("bool"):
                assert f"ix_{table}_{name}_id" in indexes
            if kind == "title" and has_trigrams:
                assert f"ix_{table}_{name}_trgm" in indexes

    async def test_bulk_stores_all_in_order_or_none(self, client: httpx.AsyncClient) -> None:
        rows = await self.fill(client)

        assert [{name: row[name] for name in self.resource.kinds} for row in rows] == [
            self.resource.content(seed) for seed in range(ROWS)
        ]
        body = {"items": [self.resource.content(0), {name: {} for name in self.resource.kinds}]}
        refused = await client.post(f"{self.resource.path}/bulk", json=body)
        errors = check_problem(refused, 422, "invalid-input")["errors"]
        assert {error["pointer"] for error in errors} == {
            f"#/items/1/{n}" for n in self.resource.kinds
        }
        assert (await self.page(client))["total"] == ROWS

    async def test_an_export_has_every_row(self, client: httpx.AsyncClient) -> None:
        rows = await self.fill(client)
        lines = (await client.get(f"{self.resource.path}/export")).text.splitlines()
        table = await client.get(f"{self.resource.path}/export", params={"format": "csv"})
        head, *cells = csv.reader(table.text.splitlines(keepends=True))

        assert [json.loads(line) for line in lines] == rows
        assert head == list(rows[0])
        assert [int(row[0]) for row in cells] == [row["id"] for row in rows]

    async def test_a_repeated_request_with_a_key_creates_once(
        self, client: httpx.AsyncClient
    ) -> None:
        for path, body in (
            (self.resource.path, self.resource.content(0)),
            (f"{self.resource.path}/bulk", {"items": [self.resource.content(1)]}),
        ):
            headers = {"Idempotency-Key": f"key of {path}"}
            first, again = [await client.post(path, json=body, headers=headers) for _ in "12"]

            assert (first.status_code, again.status_code) == (201, 201)
            assert again.headers["idempotency-replayed"] == "true"
            assert again.content == first.content
        assert (await self.page(client))["total"] == 2
