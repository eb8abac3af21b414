"""The indexes that PostgreSQL uses for the filters and the sorts of the list."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.crud import item as crud
from service.database.engine import create_engine, transactional
from service.domain.item import ItemFilter, ItemQuery
from service.settings import Settings
from tests.support.database import new_database
from tests.support.lists import KEYS, SORTS
from tests.support.processes import script

ROWS = 30_000  # as many as ANALYZE samples, so that the statistics are exact
SEED = f"""
SELECT setseed(0.5);

INSERT INTO items (name, description, price, is_active, created_at, updated_at)
SELECT
    CASE WHEN n % 1000 = 7 THEN 'Desk lamp' ELSE md5(n::text) END,
    repeat('Warm light. ', n % 20),
    CASE WHEN n % 10 > 0 THEN round((random() * 10000)::numeric, 2) END,
    n > 500,
    '2026-01-01'::timestamptz + random() * interval '100 days',
    '2026-06-01'::timestamptz + random() * interval '100 days'
FROM generate_series(1, {ROWS}) AS n;

VACUUM ANALYZE items
"""
START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2026, 6, 1, tzinfo=UTC) + timedelta(days=100)
MOMENT = timedelta(days=0.1)
INDEXES = {key: "pk_items" if key == "id" else f"ix_items_{key}_id" for key in KEYS}
INDEXES["price"] = "ix_items_price_key_id"
INDEXES |= {"q": "ix_items_name_trgm", "is_active": "ix_items_is_active_id"}
# Selective filters, each with the key of the index that must serve it.
SELECTIVE: dict[str, tuple[str, ItemFilter]] = {
    "is_active": ("is_active", ItemFilter(is_active=False)),
    "q": ("q", ItemFilter(q="SK LAMP")),
    "q of three characters": ("q", ItemFilter(q="Lam")),
    "q without a match": ("q", ItemFilter(q="zzz")),
    "price_min": ("price", ItemFilter(price_min=Decimal(9990))),
    "price_max": ("price", ItemFilter(price_max=Decimal(10))),
    "both prices": ("price", ItemFilter(price_min=Decimal(5000), price_max=Decimal(5005))),
    "created_after": ("created_at", ItemFilter(created_after=START + timedelta(100) - MOMENT)),
    "created_before": ("created_at", ItemFilter(created_before=START + MOMENT)),
    "both times": (
        "created_at",
        ItemFilter(
            created_after=START + timedelta(50), created_before=START + timedelta(50) + MOMENT
        ),
    ),
    "updated_after": ("updated_at", ItemFilter(updated_after=END - MOMENT)),
}
MOST = 510  # rows that any of them matches


@pytest.fixture(scope="module")
def large_url(server_url: str, template: str) -> Iterator[str]:
    """A database with many items, and the statistics that autovacuum collects after a while."""
    with new_database(server_url, template) as url:
        script(url, SEED)
        yield url


@pytest.fixture
async def large(large_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection to that database, configured as the service's own, in a transaction."""
    engine = create_engine(Settings(_env_file=None, database_url=large_url))
    async with transactional(engine).connect() as conn:
        yield conn
    await engine.dispose()


async def statement_of(conn: AsyncConnection, query: ItemQuery) -> tuple[str, tuple[Any, ...]]:
    """Return the statement that the service sends for this query, and its parameters."""
    sent: list[tuple[str, tuple[Any, ...]]] = []

    def note(conn: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if not statement.startswith("SET"):
            sent.append((statement, tuple(parameters)))

    event.listen(conn.sync_connection, "before_cursor_execute", note)
    await (crud.search_pages if crud.is_expensive(query) else crud.list_pages)(conn, [query])
    event.remove(conn.sync_connection, "before_cursor_execute", note)
    (statement_and_parameters,) = sent
    return statement_and_parameters


async def plan_of(conn: AsyncConnection, statement: str, parameters: tuple[Any, ...]) -> Any:
    """Return how PostgreSQL runs the statement with these parameters."""
    explained = await conn.exec_driver_sql(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
    )
    return explained.scalar_one()[0]["Plan"]


async def generic_plan_of(
    conn: AsyncConnection, statement: str, parameters: tuple[Any, ...]
) -> Any:
    """Return how PostgreSQL runs it after many executions, by one plan for all parameters."""
    values = ", ".join(map(literal, parameters))
    await conn.exec_driver_sql(f"PREPARE often AS {statement}")
    await conn.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
    plan = await plan_of(conn, f"EXECUTE often({values})", ())
    await conn.exec_driver_sql("SET LOCAL plan_cache_mode = auto")
    await conn.exec_driver_sql("DEALLOCATE often")
    return plan


def literal(value: Any) -> str:
    """Return an SQL literal."""
    if isinstance(value, list):
        members = ",".join("NULL" if member is None else f'"{member}"' for member in value)
        return f"'{{{members}}}'"
    return f"'{value}'"


def nodes_of(plan: Any) -> Iterator[Any]:
    """Yield the plan's nodes."""
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes_of(part)


def scanned(plan: Any) -> set[str]:
    """Return the indexes through which the items are read, and the type of any other scan."""
    return {
        node.get("Index Name", node["Node Type"])
        for node in nodes_of(plan)
        if "Scan" in node["Node Type"]
    } - {"Function Scan", "Bitmap Heap Scan"}


def check_is_served(plan: Any, index: str) -> None:
    """Assert that the index alone finds one page: few rows are read, and few dropped."""
    assert scanned(plan) == {index}, plan
    for node in nodes_of(plan):
        assert node["Actual Rows"] <= 21, plan
        assert node.get("Rows Removed by Filter", 0) <= 5, plan
    (page,) = [node for node in nodes_of(plan) if node["Node Type"] == "Limit"]
    assert page["Shared Hit Blocks"] + page["Shared Read Blocks"] <= 60, plan


@pytest.mark.parametrize("name", SELECTIVE)
async def test_an_index_serves_each_filter_alone(large: AsyncConnection, name: str) -> None:
    key, wanted = SELECTIVE[name]
    index = INDEXES[key]
    exists = await large.scalar(
        text("SELECT count(*) FROM pg_indexes WHERE indexname = :index"), {"index": index}
    )
    if key == "q" and not exists:
        pytest.skip("this server has no pg_trgm")
    for query in (ItemQuery(wanted), ItemQuery(wanted, count="exact")):
        plan = await plan_of(large, *await statement_of(large, query))

        assert scanned(plan) == {index}, plan
        assert max(node["Actual Rows"] for node in nodes_of(plan)) <= MOST, plan


async def test_a_search_is_planned_for_its_own_parameters(large: AsyncConnection) -> None:
    await crud.search_pages(large, [ItemQuery(ItemFilter(q="lamp"))])

    assert await large.scalar(text("SHOW plan_cache_mode")) == "force_custom_plan"


@pytest.mark.parametrize("sort", ["id", "-id"])
@pytest.mark.parametrize("is_active", [True, False])
async def test_is_active_never_reads_what_it_filters_out(
    large: AsyncConnection, is_active: bool, sort: str
) -> None:
    """The inactive items have neighbouring ids, which the statistics do not show."""
    for after in (None, (250, 250), (ROWS // 2, ROWS // 2)):
        query = ItemQuery(ItemFilter(is_active), sort, after=after, count="none")
        statement, parameters = await statement_of(large, query)

        for explain in (plan_of, generic_plan_of):
            check_is_served(await explain(large, statement, parameters), INDEXES["is_active"])


@pytest.mark.parametrize("sort", SORTS)
async def test_an_index_serves_each_sort_however_deep_the_cursor(
    large: AsyncConnection, sort: str
) -> None:
    key = sort.removeprefix("-")
    order = ", ".join(f"{c} {'DESC' if '-' in sort else 'ASC'}" for c in (key, "id"))
    for skipped in (None, ROWS // 2, ROWS - 15):  # by price, the last ones are NULL
        query = ItemQuery(sort=sort, count="none")
        if skipped:
            place = f"SELECT {key}, id FROM items ORDER BY {order} OFFSET {skipped} LIMIT 1"
            query.after = tuple((await large.execute(text(place))).one())
        statement, parameters = await statement_of(large, query)

        for explain in (plan_of, generic_plan_of):
            check_is_served(await explain(large, statement, parameters), INDEXES[key])


@pytest.mark.parametrize(
    ("query", "is_expensive"),
    [
        (ItemQuery(), False),
        (ItemQuery(sort="-price", after=(None, 1)), False),
        (ItemQuery(page=51, per_page=20), False),
        (ItemQuery(page=52, per_page=20), True),
        (ItemQuery(count="none"), False),
        (ItemQuery(count="exact"), True),
        (ItemQuery(ItemFilter(is_active=True), "-id"), False),
        (ItemQuery(ItemFilter(is_active=True), "name"), True),
        (ItemQuery(ItemFilter(q="")), True),
        (ItemQuery(ItemFilter(is_active=True, q="a")), True),
    ],
)
def test_searches_deep_pages_and_exact_counts_run_apart_from_other_lists(
    query: ItemQuery, is_expensive: bool
) -> None:
    assert crud.is_expensive(query) == is_expensive
