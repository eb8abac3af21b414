"""Lists of any resource: the parameters of pages, positions in cursors, pages, and bulk bodies."""

from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationInfo, field_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from service.domain.listing import Count, Position
from service.schemas.base import QuerySchema, Schema
from service.schemas.types import (
    INT64_MAX,
    Int64,
    PlainSpelling,
    PriceBound,
    SafeText,
    StoredText,
    Time,
)

# Largest `page * per_page`: the database reads every row before a page.
MAX_DEPTH = 1_000_000

SORT = "The order; a leading minus reverses it. Ties are sorted by id"

Create = TypeVar("Create", bound=Schema)
Read = TypeVar("Read", bound=Schema)

# The type of a cursor's position, for each type of sort key: the key and the id.
PlaceId = Annotated[Int64, Field(strict=True)]
INT_POSITION: TypeAdapter[Position] = TypeAdapter(tuple[PlaceId, PlaceId])
TEXT_POSITION: TypeAdapter[Position] = TypeAdapter(tuple[StoredText, PlaceId])
PRICE_POSITION: TypeAdapter[Position] = TypeAdapter(tuple[PriceBound, PlaceId])
TIME_POSITION: TypeAdapter[Position] = TypeAdapter(tuple[Time, PlaceId])
# Of nullable columns.
INT_OR_NULL_POSITION: TypeAdapter[Position] = TypeAdapter(tuple[PlaceId | None, PlaceId])
PRICE_OR_NULL_POSITION: TypeAdapter[Position] = TypeAdapter(tuple[PriceBound | None, PlaceId])
TIME_OR_NULL_POSITION: TypeAdapter[Position] = TypeAdapter(tuple[Time | None, PlaceId])


class PageQuery(QuerySchema):
    """Order and page of a list; a resource narrows `sort` to a literal of its sorts."""

    # Before `page`, whose validator reads it. The bounds come before the validator, or the OpenAPI
    # document omits them.
    per_page: Annotated[int, Field(ge=1, le=100), PlainSpelling] = Field(
        20, description="Number of items on a page"
    )
    page: Annotated[
        int, Field(ge=1, le=INT64_MAX, json_schema_extra={"maximum": MAX_DEPTH}), PlainSpelling
    ] = Field(1, description="Number of the page, from 1")
    cursor: SafeText | None = Field(
        None,
        max_length=3000,
        description="Instead of `page`: the `next_cursor` of the previous page, with the same"
        " filters and sort",
    )
    sort: str = Field("id", description=SORT)
    count: Count = Field(
        "capped",
        description="How to count the matches: up to 10,000, exactly (its time grows with their"
        " number), or not at all",
    )

    @field_validator("page")
    @classmethod
    def _not_too_deep(cls, page: int, info: ValidationInfo) -> int:
        if page * info.data.get("per_page", 20) > MAX_DEPTH:
            raise PydanticCustomError(
                "too_deep",
                "page * per_page must not exceed {deepest}; follow `next_cursor`, or use a filter",
                {"deepest": MAX_DEPTH},
            )
        return page

    @field_validator("cursor")
    @classmethod
    def _not_both(cls, cursor: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("page", 1) != 1:
            raise PydanticCustomError("both", "cursor and page exclude each other")
        return cursor

    @property
    def deepest_page(self) -> int:
        """Return the largest page number that is allowed."""
        return MAX_DEPTH // self.per_page


class Page(Schema, Generic[Read]):
    """One page of a list, and the number of matches."""

    items: list[Read]
    page: int | None = Field(description="Number of the page; null for a cursor page")
    per_page: int
    total: int | None = Field(description="Number of matches; null with `count=none`")
    total_relation: Literal["eq", "gte"] | None = Field(
        description='"eq": `total` is exact; "gte": it is a lower bound'
    )
    pages: int | None = Field(description="Number of pages for `total`")
    next_cursor: str | None = Field(description="The cursor of the next page; null at the end")


class Bulk(Schema, Generic[Create]):
    """Items to create, all or none."""

    items: list[Create] = Field(
        min_length=1, max_length=1000, description="The items, stored in this order"
    )


class Created(Schema, Generic[Read]):
    """The stored items, in the order of the request."""

    items: list[Read]


def page_example(item: JsonDict) -> JsonDict:
    """Return the example of a page, for the OpenAPI document."""
    return {
        "items": [item],
        "page": 1,
        "per_page": 1,
        "total": 2,
        "total_relation": "eq",
        "pages": 2,
        "next_cursor": "l2z4yDmZ6GJbMSwxXQ",
    }
