"""Filters of the list over HTTP, and the indexes that serve them and the sorts."""

import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.crud import item as crud
from service.database import create_engine, transactional
from service.domain.item import ItemFilter, ItemQuery
from service.models.item import items
from service.settings import Settings
from tests.support.commands import run
from tests.support.database import new_database
from tests.support.processes import query as run_query
from tests.support.processes import script

KEYS = ["id", "name", "price", "created_at", "updated_at"]
SORTS = [f"{minus}{key}" for key in KEYS for minus in ("", "-")]
MAX_PRICE = Decimal("9999999999.99")
MICROSECOND = timedelta(microseconds=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TIMES = [NOON + step * MICROSECOND for step in (-3_600_000_000, -2, -1, 0, 1, 2, 86_400_000_000)]
SOME_PRICES = [Decimal(price) for price in ("0.00", "0.01", "4.99", "5.00", "5.01", "29.90")]
PRICES = [None, *SOME_PRICES, MAX_PRICE]


def stock() -> list[dict[str, Any]]:
    """Items by chance, the same ones each time."""
    random_ = random.Random(7)
    return [
        {
            "id": id_,
            "name": "".join(random_.choices("abAB%", k=3)) + "!",
            "price": random_.choice(PRICES),
            "is_active": random_.random() < 0.6,
            "created_at": random_.choice(TIMES),
            "updated_at": random_.choice(TIMES),
        }
        for id_ in random_.sample(range(1, 1000), 80)
    ]


STOCK = stock()


@pytest.fixture
async def shop(app: FastAPI, client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a service that has the stock."""
    async with transactional(app.state.engine).begin() as conn:
        await conn.execute(insert(items), STOCK)
    return client


def matches(item: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """What the filters mean, in plain Python."""
    price, created, updated = item["price"], item["created_at"], item["updated_at"]
    checks: dict[str, Callable[[Any], bool]] = {
        "is_active": lambda value: item["is_active"] is value,
        "q": lambda value: value.lower() in item["name"].lower(),
        "price_min": lambda value: price is not None and price >= value,
        "price_max": lambda value: price is not None and price <= value,
        "created_after": lambda value: created > value,
        "created_before": lambda value: created < value,
        "updated_after": lambda value: updated > value,
    }
    return all(checks[name](value) for name, value in wanted.items())


def expected(wanted: dict[str, Any], sort: str = "id") -> list[int]:
    """The ids of the items that match, in order: NULL is the greatest, ties go by id."""
    key = sort.removeprefix("-")
    found = sorted(
        (item for item in STOCK if matches(item, wanted)),
        key=lambda item: (item[key] is None, item[key] or 0, item["id"]),
        reverse=sort.startswith("-"),
    )
    return [item["id"] for item in found]


async def fetch(client: httpx.AsyncClient, **params: Any) -> Any:
    answer = await client.get("/items", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids_of(page: Any) -> list[int]:
    return [item["id"] for item in page["items"]]


any_price = st.sampled_from([*SOME_PRICES, MAX_PRICE]) | st.decimals(0, 40, places=2)
any_offset = st.sampled_from([UTC, *(timezone(timedelta(minutes=m)) for m in (330, -720, 840))])
any_time = st.builds(
    lambda time, step, offset: (time + step * MICROSECOND).astimezone(offset),
    st.sampled_from(TIMES),
    st.sampled_from([-1, 0, 0, 0, 1]),
    any_offset,
)
any_filter = st.fixed_dictionaries(
    {},
    optional={
        "is_active": st.booleans(),
        "q": st.text("abAB%_!", max_size=3),
        "price_min": any_price,
        "price_max": any_price,
        "created_after": any_time,
        "created_before": any_time,
        "updated_after": any_time,
    },
)
many_examples = hypothesis_settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # no example changes the stock
)


def as_params(wanted: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in wanted.items()
    }


@many_examples
@given(
    wanted=any_filter,
    sort=st.sampled_from(SORTS),
    count=st.sampled_from(["capped", "exact"]),
    size=st.sampled_from([9, 30, 100]),
)
async def test_filters_find_what_they_mean_together_in_every_order(
    shop: httpx.AsyncClient, wanted: dict[str, Any], sort: str, count: str, size: int
) -> None:
    ids = expected(wanted, sort)
    params = {**as_params(wanted), "sort": sort, "count": count, "per_page": size}
    page = await fetch(shop, **params)
    seen = ids_of(page)
    assert page["total"] == len(ids)
    while page["next_cursor"]:
        page = await fetch(shop, **params, cursor=page["next_cursor"])
        seen += ids_of(page)
    assert seen == ids

    second = await fetch(shop, **params, page=2)
    assert ids_of(second) == ids[size : 2 * size]


@pytest.mark.parametrize("name", ["created_after", "created_before", "updated_after"])
async def test_times_exclude_their_bound_to_the_microsecond(
    shop: httpx.AsyncClient, name: str
) -> None:
    column = name.partition("_")[0] + "_at"
    for step in (-1, 0, 1):
        bound = NOON + step * MICROSECOND
        found = {item["id"] for item in STOCK if item[column] == bound}
        page = await fetch(shop, **{name: bound.isoformat()}, per_page=100)

        assert found
        assert not found & set(ids_of(page))
        assert ids_of(page) == expected({name: bound})


@pytest.mark.parametrize("name", ["price_min", "price_max"])
async def test_prices_include_their_bound_and_never_match_null(
    shop: httpx.AsyncClient, name: str
) -> None:
    null = {item["id"] for item in STOCK if item["price"] is None}
    for price in PRICES[1:]:
        found = {item["id"] for item in STOCK if item["price"] == price}
        ids = ids_of(await fetch(shop, **{name: price}, per_page=100))

        assert found <= set(ids)
        assert not null & set(ids)
        assert ids == expected({name: price})
    everything = await fetch(shop, price_min=0, price_max=MAX_PRICE)
    assert everything["total"] == len(STOCK) - len(null)


@pytest.mark.parametrize("sort", SORTS)
async def test_bounds_that_exclude_each_other_find_nothing(
    shop: httpx.AsyncClient, sort: str
) -> None:
    noon = NOON.isoformat()
    for params in (
        {"price_min": "5.01", "price_max": "5"},
        {"price_min": MAX_PRICE, "price_max": 0},
        {"created_after": noon, "created_before": noon},
    ):
        page = await fetch(shop, **params, sort=sort)

        assert (page["items"], page["total"], page["pages"]) == ([], 0, 0)
        assert (page["total_relation"], page["next_cursor"]) == ("eq", None)


async def test_a_change_moves_an_item_between_the_filters(client: httpx.AsyncClient) -> None:
    item = (await client.post("/items", json={"name": "Lamp", "price": 5})).json()
    since = {"updated_after": item["updated_at"]}
    assert (await fetch(client, **since))["total"] == 0

    await client.patch(f"/items/{item['id']}", json={"price": None})

    assert (await fetch(client, **since))["total"] == 1
    assert (await fetch(client, created_after=item["created_at"]))["total"] == 0
    assert (await fetch(client, price_min=0))["total"] == 0


PRICE_FILTERS = ["price_min", "price_max"]
TIME_FILTERS = ["created_after", "created_before", "updated_after"]
BAD_PRICES = ["", "1e3", "1E3", "1e-1", "NaN", "nan", "Infinity", "-Infinity", "inf", "-1", "-0.01"]
BAD_PRICES += ["0.001", "29.999", "10000000000", "9999999999.991", "1" * 5000]
BAD_PRICES += ["%2B1", "+1", "1_000", "1,5", "1.", ".5", "1.5.0", "0x1", "1%20", "%201", "%0A1"]
BAD_PRICES += ["1%0A", "%00", "1%00", "%ff", "%ED%A0%80", "five", "null", "true", "[]", "%D9%A1"]
BAD_TIMES = ["", "now", "null", "1795000000", "1795000000000", "0", "-1", "1e9", "NaN", "Infinity"]
BAD_TIMES += ["2026", "2026-11-22", "2026-11-22T09:30:00", "2026-11-22T09:30Z", "09:30:00Z"]
BAD_TIMES += ["2026-11-22T09Z", "2026-W47-7T09:30:00Z", "20261122T093000Z", "2026-326T09:30:00Z"]
BAD_TIMES += ["2026-02-30T00:00:00Z", "2026-02-29T00:00:00Z", "2026-00-01T00:00:00Z"]
BAD_TIMES += ["2026-13-01T00:00:00Z", "2026-11-31T00:00:00Z", "2026-11-22T24:00:00Z"]
BAD_TIMES += ["2026-11-22T23:60:00Z", "2026-11-22T23:59:61Z", "2016-12-31T23:59:60Z"]
BAD_TIMES += ["0000-01-01T00:00:00Z", "0000-12-31T23:59:59-23:59", "10000-01-01T00:00:00Z"]
BAD_TIMES += ["-2026-11-22T09:30:00Z", "0001-01-01T00:00:00%2B00:01", "0001-01-01T00:00:00%2B23:59"]
BAD_TIMES += ["9999-12-31T23:59:59-00:01", "9999-12-31T23:59:59.999999-23:59"]
BAD_TIMES += ["2026-11-22T09:30:00+01:00", "2026-11-22T09:30:00%2B24:00"]
BAD_TIMES += ["2026-11-22T09:30:00%2B99:99", "2026-11-22T09:30:00%2B0100"]
BAD_TIMES += ["2026-11-22T09:30:00%2B01", "2026-11-22T09:30:00.Z", "2026-11-22T09:30:00,5Z"]
BAD_TIMES += ["2026-11-22T09:30:00Z%00", "2026-11-22T09:30:00Z%0A", "%202026-11-22T09:30:00Z"]
BAD_TIMES += ["2026-11-22T09:30:00ZZ", "2026-11-22T09:30:00Europe/Paris", "2026-11-22_09:30:00Z"]
BAD_TIMES += ["2026-11-22T09:30:00%E2%88%9201:00", "%D9%A2026-11-22T09:30:00Z", "%ff", "1" * 5000]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, BAD_PRICES) for name in PRICE_FILTERS),
        *((name, BAD_TIMES) for name in TIME_FILTERS),
    ],
    ids=PRICE_FILTERS + TIME_FILTERS,
)
async def test_a_bad_bound_is_refused_by_name(
    client: httpx.AsyncClient, name: str, values: list[str]
) -> None:
    for value in values:
        answer = await client.get(f"/items?{name}={value}")

        assert answer.status_code == 422, (value[:40], answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        (error,) = answer.json()["errors"]
        assert error["parameter"] == name
        assert error["detail"]


async def test_every_bad_bound_is_named(client: httpx.AsyncClient) -> None:
    names = PRICE_FILTERS + TIME_FILTERS
    answer = await client.get("/items", params=dict.fromkeys(names, "x"))

    assert answer.status_code == 422
    assert {error["parameter"] for error in answer.json()["errors"]} == set(names)


SPELLINGS_OF_PRICES: dict[str, Any] = {
    price: Decimal(price)
    for price in ("0", "0.0", "0.00", "5", "5.0", "5.00", "005", "4.99", "9999999999.99")
}
SPELLINGS_OF_TIMES = {
    "2026-03-01T12:00:00Z": NOON,
    "2026-03-01t12:00:00z": NOON,
    "2026-03-01 12:00:00Z": NOON,
    "2026-03-01T12:00:00-00:00": NOON,
    "2026-03-01T12:00:00.0+00:00": NOON,
    "2026-03-02T02:00:00+14:00": NOON,
    "2026-02-28T12:01:00-23:59": NOON,
    "2026-03-01T12:00:00.000001Z": NOON + MICROSECOND,
    "2026-03-01T12:00:00.000001000Z": NOON + MICROSECOND,
    "2026-03-01T11:59:59.999999Z": NOON - MICROSECOND,
    "0001-01-01T00:00:00Z": datetime.min.replace(tzinfo=UTC),
    "0001-01-01T23:59:00+23:59": datetime.min.replace(tzinfo=UTC),
    "9999-12-31T23:59:59.999999Z": datetime.max.replace(tzinfo=UTC),
    # What is beyond microseconds does not count: the database keeps no more.
    "2026-03-01T12:00:00.0000001Z": NOON,
    "2026-03-01T12:00:00.0000009Z": NOON,
    "2026-03-01T12:00:00.000000999Z": NOON,
    f"2026-03-01T12:00:00.{'0' * 500}1Z": NOON,
}


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        *((name, SPELLINGS_OF_PRICES) for name in PRICE_FILTERS),
        *((name, SPELLINGS_OF_TIMES) for name in TIME_FILTERS),
    ],
    ids=PRICE_FILTERS + TIME_FILTERS,
)
async def test_every_spelling_of_a_bound_works(
    shop: httpx.AsyncClient, name: str, spellings: dict[str, Any]
) -> None:
    for spelled, bound in spellings.items():
        page = await fetch(shop, **{name: spelled}, per_page=100)

        assert ids_of(page) == expected({name: bound}), spelled


ROWS = 100_000
SEED = f"""
SELECT setseed(0.5);
INSERT INTO items (name, description, price, is_active, created_at, updated_at)
SELECT
    CASE WHEN n % 2500 = 7 THEN 'Desk lamp' ELSE md5(n::text) END,
    repeat('Warm light. ', n % 20),
    CASE WHEN n % 10 > 0 THEN round((random() * 10000)::numeric, 2) END,
    n > 1000,
    '2026-01-01'::timestamptz + random() * interval '100 days',
    '2026-06-01'::timestamptz + random() * interval '100 days'
FROM generate_series(1, {ROWS}) AS n;
"""
START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2026, 6, 1, tzinfo=UTC) + timedelta(days=100)
# The filter, the index that is to serve it, and how many rows it finds at most.
SELECTIVE: dict[str, tuple[ItemFilter, str, int]] = {
    "is_active": (ItemFilter(is_active=False), "ix_items_is_active_id", 1000),
    "q": (ItemFilter(q="SK LAMP"), "ix_items_name_trgm", 40),
    "q of three": (ItemFilter(q="Lam"), "ix_items_name_trgm", 40),
    "q of nothing": (ItemFilter(q="zzz"), "ix_items_name_trgm", 1),
    "price_min": (ItemFilter(price_min=Decimal(9990)), "ix_items_price_key_id", 200),
    "price_max": (ItemFilter(price_max=Decimal(10)), "ix_items_price_key_id", 200),
    "price_min and price_max": (
        ItemFilter(price_min=Decimal(5000), price_max=Decimal(5005)),
        "ix_items_price_key_id",
        200,
    ),
    "created_after": (
        ItemFilter(created_after=START + timedelta(days=99.9)),
        "ix_items_created_at_id",
        200,
    ),
    "created_before": (
        ItemFilter(created_before=START + timedelta(days=0.1)),
        "ix_items_created_at_id",
        200,
    ),
    "created_after and created_before": (
        ItemFilter(
            created_after=START + timedelta(days=50), created_before=START + timedelta(days=50.1)
        ),
        "ix_items_created_at_id",
        200,
    ),
    "updated_after": (
        ItemFilter(updated_after=END - timedelta(days=0.1)),
        "ix_items_updated_at_id",
        200,
    ),
}
INDEXES = {key: "pk_items" if key == "id" else f"ix_items_{key}_id" for key in KEYS}
INDEXES["price"] = "ix_items_price_key_id"


@pytest.fixture(scope="module")
def large_url(server_url: str) -> Iterator[str]:
    """A database with many items."""
    with new_database(server_url) as url:
        run("alembic", "upgrade", "head", env={"DATABASE_URL": url})
        script(url, SEED)
        run_query(url, "VACUUM ANALYZE items")  # what autovacuum does after a while
        yield url


@pytest.fixture
async def large(large_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection to it, as the service's own are, in a transaction."""
    engine = create_engine(Settings(_env_file=None, database_url=large_url))
    async with transactional(engine).connect() as conn:
        yield conn
    await engine.dispose()


@contextmanager
def executed(conn: AsyncConnection) -> Iterator[list[tuple[str, Sequence[Any]]]]:
    """The statements that are sent meanwhile, with their parameters."""
    sent: list[tuple[str, Sequence[Any]]] = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        sent.append((statement, parameters))

    event.listen(conn.sync_connection, "before_cursor_execute", note)
    yield sent
    event.remove(conn.sync_connection, "before_cursor_execute", note)


async def statement_of(conn: AsyncConnection, query: ItemQuery) -> tuple[str, Sequence[Any]]:
    """What the service sends for this query."""
    list_pages = crud.search_pages if crud.is_dear(query) else crud.list_pages
    with executed(conn) as sent:
        await list_pages(conn, [query])
    ((statement, parameters),) = [each for each in sent if not each[0].startswith("SET")]
    return statement, parameters


async def plan_of(conn: AsyncConnection, statement: str, parameters: Sequence[Any]) -> Any:
    """How PostgreSQL runs it with these very parameters."""
    explained = await conn.exec_driver_sql(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", tuple(parameters)
    )
    return explained.scalar_one()[0]["Plan"]


async def generic_plan_of(conn: AsyncConnection, statement: str, parameters: Sequence[Any]) -> Any:
    """How PostgreSQL runs it when it has been run so often that one plan is to do for all."""
    values = ", ".join(map(literal, parameters))
    await conn.exec_driver_sql(f"PREPARE often AS {statement}")
    await conn.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
    explained = await conn.exec_driver_sql(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE often({values})"
    )
    await conn.exec_driver_sql("DEALLOCATE often")
    return explained.scalar_one()[0]["Plan"]


def literal(value: Any) -> str:
    inner = ",".join(f'"{member}"' for member in value) if isinstance(value, list) else str(value)
    return f"'{{{inner}}}'" if isinstance(value, list) else f"'{inner}'"


def nodes(plan: Any) -> Iterator[Any]:
    """The plan's nodes, but for the count of all, which stands beside the page."""
    yield plan
    for part in plan.get("Plans", []):
        if part["Parent Relationship"] != "InitPlan":
            yield from nodes(part)


def counts(plan: Any) -> Iterator[Any]:
    """The nodes of the count."""
    for part in plan.get("Plans", []):
        yield from nodes(part) if part["Parent Relationship"] == "InitPlan" else counts(part)


def scans(nodes: Iterable[Any]) -> set[str]:
    """The indexes that the items are read through; a scan of the whole table has none."""
    return {
        node.get("Index Name", node["Node Type"]) for node in nodes if "Scan" in node["Node Type"]
    } - {"Function Scan", "Bitmap Heap Scan"}


def check_is_served(plan: Any, index: str, rows: int, buffers: int) -> None:
    """The index alone finds the rows: little else is read, and nothing is thrown away."""
    assert scans(nodes(plan)) == {index}, plan
    for node in nodes(plan):
        assert node["Actual Rows"] <= rows, plan
        assert node.get("Rows Removed by Filter", 0) <= 5, plan
    (page,) = [node for node in nodes(plan) if node["Node Type"] == "Limit"]
    assert page["Shared Hit Blocks"] + page["Shared Read Blocks"] <= buffers, plan


async def skip_without(conn: AsyncConnection, index: str) -> None:
    """The trigram index exists only where pg_trgm does."""
    exists = await conn.scalar(text("SELECT 1 FROM pg_indexes WHERE indexname = :i"), {"i": index})
    if index == "ix_items_name_trgm" and not exists:
        pytest.skip("this server has no pg_trgm")
    assert exists


@pytest.mark.parametrize("count", ["capped", "exact"])
@pytest.mark.parametrize("name", SELECTIVE)
async def test_an_index_serves_each_filter_alone(
    large: AsyncConnection, name: str, count: Any
) -> None:
    wanted, index, rows = SELECTIVE[name]
    await skip_without(large, index)
    plan = await plan_of(large, *await statement_of(large, ItemQuery(wanted, count=count)))

    assert scans(nodes(plan)) == {index}, plan
    assert scans(counts(plan)) == {index}, plan
    for node in (*nodes(plan), *counts(plan)):
        assert node["Actual Rows"] <= rows, plan


@pytest.mark.parametrize("after", [None, (500, 500), (50_000, 50_000)])
@pytest.mark.parametrize("sort", ["id", "-id"])
@pytest.mark.parametrize("is_active", [True, False])
async def test_is_active_never_reads_what_it_filters_out(
    large: AsyncConnection, is_active: bool, sort: str, after: tuple[int, int] | None
) -> None:
    """Though all that is inactive stands together, which statistics do not know."""
    query = ItemQuery(ItemFilter(is_active), sort, after=after, count="none")
    statement, parameters = await statement_of(large, query)

    for plan_of_ in (plan_of, generic_plan_of):
        plan = await plan_of_(large, statement, parameters)
        check_is_served(plan, "ix_items_is_active_id", rows=21, buffers=60)


@pytest.mark.parametrize("count", ["capped", "exact"])
@pytest.mark.parametrize("where", ["first", "deep", "last"])
@pytest.mark.parametrize("sort", SORTS)
async def test_an_index_serves_each_sort_however_deep_the_cursor(
    large: AsyncConnection, sort: str, where: str, count: Any
) -> None:
    key = sort.removeprefix("-")
    order = ", ".join(f"{c} {'DESC' if '-' in sort else 'ASC'}" for c in (key, "id"))
    query = ItemQuery(sort=sort, count=count)
    if where != "first":
        skip = {"deep": ROWS - 5000, "last": ROWS - 15}[where]
        # NULLs are last, and first the other way: where PostgreSQL has them by itself.
        place = text(f"SELECT {key}, id FROM items ORDER BY {order} OFFSET {skip} LIMIT 1")
        query.after = tuple((await large.execute(place)).one())
    statement, parameters = await statement_of(large, query)

    for plan_of_ in (plan_of, generic_plan_of):
        check_is_served(await plan_of_(large, statement, parameters), INDEXES[key], 21, buffers=60)
