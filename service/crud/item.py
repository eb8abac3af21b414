"""Items: sets in, sets out."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from service.crud import listing, rows
from service.crud.filters import after, at_least, at_most, before, contains, flag
from service.crud.resource import Connection, Resource, columns_of, itself
from service.domain.item import Item, ItemFilter, ItemPage, ItemQuery
from service.models.base import MAX_PRICE, price_key
from service.models.item import items

ITEMS = Resource(
    table=items,
    make=Item,
    columns=columns_of(items, Item),
    content=("name", "description", "price", "is_active"),
    defaults={"description": None, "price": None, "is_active": True},
    sorts={
        "id": itself,
        "name": itself,
        "price": price_key,
        "created_at": itself,
        "updated_at": itself,
    },
    filters=(
        flag("is_active", items.c.is_active),
        contains("q", items.c.name),
        at_least("price_min", price_key(items.c.price), MAX_PRICE),
        at_most("price_max", price_key(items.c.price)),
        after("created_after", items.c.created_at),
        before("created_before", items.c.created_at),
        after("updated_after", items.c.updated_at),
    ),
)

shape = listing.shape


def is_expensive(query: ItemQuery) -> bool:
    """Return whether the database may read many more rows than it returns."""
    return listing.is_expensive(ITEMS, query)


async def get_many(conn: Connection, ids: Sequence[int]) -> list[Item | None]:
    """Return the items with `ids`, in their order; None for a missing one."""
    return await rows.get_many(conn, ITEMS, ids)


async def create_many(conn: Connection, new: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Store items, all or none; return them in the order of `new`."""
    return await rows.create_many(conn, ITEMS, new)


async def copy_many(conn: AsyncConnection, new: Iterable[Mapping[str, Any]]) -> None:
    """Store a large number of items by COPY, without returning them."""
    await rows.copy_many(conn, ITEMS, new)


async def update_many(
    conn: Connection,
    ids: Sequence[int],
    values: Mapping[str, Any],
    versions: Sequence[int] | None = None,
) -> list[Item | None]:
    """Set `values` in rows with one of `versions`; return the changed items."""
    return await rows.update_many(conn, ITEMS, ids, values, versions)


async def deactivate_many(
    conn: Connection, ids: Sequence[int], versions: Sequence[int] | None = None
) -> set[int]:
    """Deactivate the items that have one of the `versions`; return their ids."""
    return await rows.deactivate_many(conn, ITEMS, ids, versions)


async def delete_many(
    conn: Connection, ids: Sequence[int], versions: Sequence[int] | None = None
) -> set[int]:
    """Delete the items that have one of the `versions`; return their ids."""
    return await rows.delete_many(conn, ITEMS, ids, versions)


async def list_pages(conn: Connection, queries: Sequence[ItemQuery]) -> list[ItemPage]:
    """Return the page of each query; queries of one shape take one statement."""
    return await listing.list_pages(conn, ITEMS, queries)


async def search_pages(conn: Connection, queries: Sequence[ItemQuery]) -> list[ItemPage]:
    """Return pages as `list_pages` does, in a transaction, with plans for the given values."""
    return await listing.search_pages(conn, ITEMS, queries)


def export_items(conn: AsyncConnection, wanted: ItemFilter) -> AsyncIterator[list[Item]]:
    """Yield the matching items by id, in batches of one snapshot."""
    return listing.export_rows(conn, ITEMS, wanted)
