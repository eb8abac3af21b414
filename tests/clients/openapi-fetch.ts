// Every operation by openapi-typescript and openapi-fetch.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./made/openapi-fetch";

const { ITEMS_URL: baseUrl, ITEMS_KEY: key } = process.env;
const { GET, POST, PUT, PATCH, DELETE } = createClient<paths>({
  baseUrl,
  headers: { Authorization: `Bearer ${key}` },
});
const lamp: components["schemas"]["ItemCreate"] = { name: "Desk lamp", price: 29.99 };
const header = { "Idempotency-Key": "openapi-fetch" };

const created = await POST("/items", { body: lamp, params: { header } });
assert(created.data);
assert.equal(created.data.is_active, true);
const path = { item_id: created.data.id };
assert.equal(created.response.headers.get("Location"), `/items/${path.item_id}`);
const again = await POST("/items", { body: lamp, params: { header } });
assert.equal(again.response.headers.get("Idempotency-Replayed"), "true");

const many = await POST("/items/bulk", { body: { items: [{ name: "A" }, { name: "B" }] } });
assert.deepEqual(many.data?.items.map((item) => item.price), [null, null]);

const list = await GET("/items", { params: { query: { sort: "-created_at", per_page: 2 } } });
assert.equal(list.data?.items.length, 2);
assert(list.data.next_cursor);

const read = await GET("/items/{item_id}", { params: { path } });
assert(read.data);
const etag = read.response.headers.get("ETag");
assert.equal(etag, `"${read.data.version}"`);
const unchanged = await GET("/items/{item_id}", {
  params: { path, header: { "If-None-Match": etag } },
});
assert.equal(unchanged.response.status, 304);

const match = { path, header: { "If-Match": etag } };
const replaced = await PUT("/items/{item_id}", { params: match, body: { name: "Lamp" } });
assert.equal(replaced.data?.price, null);
const stale = await PATCH("/items/{item_id}", { params: match, body: { price: 1 } });
assert.equal(stale.error?.type, "urn:items-service:precondition-failed");
const changed = await PATCH("/items/{item_id}", { params: { path }, body: { is_active: false } });
assert.equal(changed.data?.is_active, false);

const csv = await GET("/items/export", { params: { query: { format: "csv" } }, parseAs: "text" });
assert.match(csv.data ?? "", /^id,name/);

const deleted = await DELETE("/items/{item_id}", { params: { path, query: { permanent: true } } });
assert.equal(deleted.response.status, 204);

assert.equal((await GET("/health")).data?.database, "ok");
assert.equal((await GET("/health/live")).data?.status, "ok");
assert.equal((await GET("/health/ready")).data?.status, "ok");
