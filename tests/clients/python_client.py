"""Every operation by openapi-python-client."""

import os
from http import HTTPStatus

from items_client import AuthenticatedClient
from items_client.api.items import (
    create_item,
    create_items,
    delete_item,
    export_items,
    get_item,
    list_items,
    replace_item,
    update_item,
)
from items_client.api.system import health, live, ready
from items_client.models import (
    Health,
    HealthOverview,
    ItemBulk,
    ItemCreate,
    ItemList,
    ItemRead,
    ItemReplace,
    ItemsCreated,
    ItemUpdate,
    ListItemsSort,
    Problem,
    ProblemType,
)

client = AuthenticatedClient(os.environ["ITEMS_URL"], token=os.environ["ITEMS_KEY"])

lamp = ItemCreate(name="Desk lamp", price=29.99)
created = create_item.sync_detailed(client=client, body=lamp, idempotency_key="python")
assert isinstance(created.parsed, ItemRead)
assert created.parsed.is_active
item_id = created.parsed.id
assert created.headers["Location"] == f"/items/{item_id}"

many = create_items.sync(client=client, body=ItemBulk(items=[lamp, lamp]))
assert isinstance(many, ItemsCreated)

page = list_items.sync(client=client, sort=ListItemsSort.CREATED_AT_DESC)
assert isinstance(page, ItemList)
assert [item.id for item in page.items] == [item.id for item in [*many.items[::-1], created.parsed]]

read = get_item.sync_detailed(item_id, client=client)
assert isinstance(read.parsed, ItemRead)
etag = f'"{read.parsed.version}"'
assert read.headers["ETag"] == etag
unchanged = get_item.sync_detailed(item_id, client=client, if_none_match=etag)
assert unchanged.status_code == HTTPStatus.NOT_MODIFIED

body = ItemReplace(name="Lamp")
replaced = replace_item.sync(item_id, client=client, body=body, if_match=etag)
assert isinstance(replaced, ItemRead)
assert replaced.price is None
stale = update_item.sync(item_id, client=client, body=ItemUpdate(price=1), if_match=etag)
assert isinstance(stale, Problem)
assert stale.type_ is ProblemType("urn:items-service:precondition-failed")
changed = update_item.sync(item_id, client=client, body=ItemUpdate(price=1))
assert isinstance(changed, ItemRead)
assert changed.price == 1

exported = export_items.sync(client=client)
assert isinstance(exported, str)
assert len(exported.splitlines()) == 3

deleted = delete_item.sync_detailed(item_id, client=client, permanent=True)
assert deleted.status_code == HTTPStatus.NO_CONTENT

assert isinstance(health.sync(client=client), HealthOverview)
assert isinstance(live.sync(client=client), Health)
assert isinstance(ready.sync(client=client), Health)
