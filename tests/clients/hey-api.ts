// Every operation by @hey-api/openapi-ts.
import assert from "node:assert/strict";
import { client } from "./made/hey-api/client.gen";
import * as api from "./made/hey-api";

const { ITEMS_URL: baseUrl, ITEMS_KEY: auth } = process.env;
client.setConfig({ baseUrl, auth });

const created = await api.createItem({
  body: { name: "Desk lamp", price: 29.99 },
  headers: { "Idempotency-Key": "hey-api" },
});
assert(created.data);
assert.equal(created.data.is_active, true);
const path = { item_id: created.data.id };
assert.equal(created.response?.headers.get("Location"), `/items/${path.item_id}`);

const many = await api.createItems({ body: { items: [{ name: "A" }, { name: "B" }] } });
assert.equal(many.data?.items.length, 2);

const list = await api.listItems({ query: { sort: "price", count: "none" } });
assert.equal(list.data?.items[0]?.id, path.item_id);
assert.equal(list.data.total, null);

const read = await api.getItem({ path });
assert(read.data);
const etag = `"${read.data.version}"`;
assert.equal(read.response?.headers.get("ETag"), etag);

const match = { path, headers: { "If-Match": etag } };
const replaced = await api.replaceItem({ ...match, body: { name: "Lamp" } });
assert.equal(replaced.data?.price, null);
const stale = await api.updateItem({ ...match, body: { price: 1 } });
assert.equal(stale.error?.type, "urn:items-service:precondition-failed");
const changed = await api.updateItem({ path, body: { description: "Warm light" } });
assert.equal(changed.data?.description, "Warm light");

const exported = await api.exportItems({ query: { format: "ndjson" }, parseAs: "text" });
assert.equal(exported.data?.trim().split("\n").length, 3);

const deleted = await api.deleteItem({ path, query: { permanent: true } });
assert.equal(deleted.response?.status, 204);

assert.equal((await api.health()).data?.database, "ok");
assert.equal((await api.live()).data?.status, "ok");
assert.equal((await api.ready()).data?.status, "ok");
