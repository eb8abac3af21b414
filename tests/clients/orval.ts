// Every operation by orval: its calls, and its zod schemas of what is sent and received.
import assert from "node:assert/strict";
import * as api from "./made/orval";
import * as zod from "./made/orval.zod";

const headers = { Authorization: `Bearer ${process.env.ITEMS_KEY}` };
const options = { headers };

const lamp = zod.CreateItemBody.parse({ name: "Desk lamp", price: 29.99 });
assert.throws(() => zod.CreateItemBody.parse({ name: "", price: -1 }));
const key = zod.CreateItemHeader.parse({ "Idempotency-Key": "orval" });
const created = await api.createItem(lamp, { headers: { ...headers, ...key } });
assert.equal(created.status, 201);
const { id, version } = zod.CreateItemResponse.parse(created.data);
assert.equal(created.headers.get("Location"), `/items/${id}`);

const many = await api.createItems({ items: [{ name: "A" }, { name: "B" }] }, options);
assert.equal(zod.CreateItemsResponse.parse(many.data).items.length, 2);

const query = zod.ListItemsQueryParams.parse({ sort: api.ListItemsSort.created_at_desc });
const list = await api.listItems(query, options);
assert.equal(zod.ListItemsResponse.parse(list.data).items.length, 3);

const read = await api.getItem(id, options);
assert.equal(zod.GetItemResponse.parse(read.data).price, 29.99);
assert.equal(read.headers.get("ETag"), `"${version}"`);

const match = { headers: { ...headers, "If-Match": `"${version}"` } };
const replaced = await api.replaceItem(id, zod.ReplaceItemBody.parse({ name: "Lamp" }), match);
assert.equal(zod.ReplaceItemResponse.parse(replaced.data).is_active, true);
const stale = await api.updateItem(id, { price: 1 }, match);
assert.equal(stale.status, 412);
assert.equal(stale.data.type, api.ProblemType["urn:items-service:precondition-failed"]);
const changed = await api.updateItem(id, zod.UpdateItemBody.parse({ price: 1 }), options);
assert.equal(zod.UpdateItemResponse.parse(changed.data).price, 1);

const exported = await api.exportItems({}, options);
assert("stream" in exported);
assert.equal((await exported.stream.text()).trim().split("\n").length, 3);

assert.equal((await api.deleteItem(id, { permanent: true }, options)).status, 204);

assert.equal(zod.HealthResponse.parse((await api.health()).data).database, "ok");
assert.equal(zod.LiveResponse.parse((await api.live()).data).status, "ok");
assert.equal(zod.ReadyResponse.parse((await api.ready()).data).status, "ok");
