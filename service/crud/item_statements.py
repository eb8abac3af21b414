"""The statements for items by id, and for new ones; each takes arrays, and so a whole set."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Numeric,
    Text,
    any_,
    bindparam,
    case,
    column,
    delete,
    func,
    insert,
    select,
    update,
)

from service.crud.item_list import COLUMNS
from service.models.item import items

CHOSEN = items.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger)))
OF_A_VERSION = items.c.version == any_(bindparam("versions", type_=ARRAY(BigInteger)))

GET_MANY = select(*COLUMNS).where(CHOSEN)
# Further columns are set when it is executed.
UPDATE_MANY = (
    update(items)
    .where(CHOSEN)
    .values(version=items.c.version + 1, updated_at=func.now())
    .returning(*COLUMNS)
)
DEACTIVATE_MANY = (
    update(items)
    .where(CHOSEN)
    .values(
        is_active=False,
        version=case((items.c.is_active, items.c.version + 1), else_=items.c.version),
        updated_at=case((items.c.is_active, func.now()), else_=items.c.updated_at),
    )
    .returning(items.c.id)
)
DELETE_MANY = delete(items).where(CHOSEN).returning(items.c.id)

_given = (
    func.unnest(
        bindparam("names", type_=ARRAY(Text)),
        bindparam("descriptions", type_=ARRAY(Text)),
        bindparam("prices", type_=ARRAY(Numeric)),
        bindparam("are_active", type_=ARRAY(Boolean)),
    )
    .table_valued(
        column("name", Text),
        column("description", Text),
        column("price", Numeric),
        column("is_active", Boolean),
        with_ordinality="ordinal",
        name="given",
    )
    .render_derived()
)
# Ids are assigned after the sort, so they grow in the order of the given rows.
CREATE_MANY = (
    insert(items)
    .from_select(
        [items.c.name, items.c.description, items.c.price, items.c.is_active],
        select(_given.c.name, _given.c.description, _given.c.price, _given.c.is_active).order_by(
            _given.c.ordinal
        ),
    )
    .returning(*COLUMNS)
)
