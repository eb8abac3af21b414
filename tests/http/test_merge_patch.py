"""The media types of PATCH (RFC 7396, RFC 5789)."""

import httpx2 as httpx

from tests.support.problems import check_problem
from tests.support.samples import LAMP


async def test_patch_takes_a_merge_patch_in_which_null_clears(client: httpx.AsyncClient) -> None:
    for media_type in (
        "application/merge-patch+json",
        "application/json",
        'application/json;charset="UTF-8"',
        "Application/Merge-Patch+JSON ; x=1",
    ):
        created = (await client.post("/items", json=LAMP)).json()
        answer = await client.patch(
            f"/items/{created['id']}",
            content=b'{"price": null, "other": {"name": null}}',
            headers={"Content-Type": media_type},
        )

        assert answer.status_code == 200, media_type
        assert (answer.json()["name"], answer.json()["price"]) == ("Lamp", None)


async def test_a_patch_of_another_type_is_a_415_that_names_the_accepted_types(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/items", json=LAMP)
    too_large = b"x" * 2_000_000  # refused by its type, before its size
    for media_type, content in (
        ("text/plain; application/json", b'{"name": "Torch"}'),
        ("application/json-patch+json", b"[]"),
        ("application/merge-patch", b""),
        ("application/jsonx", too_large),
        ("application/json, text/plain", b'{"name": "Torch"}'),
    ):
        answer = await client.patch(
            "/items/1", content=content, headers={"Content-Type": media_type}
        )

        check_problem(answer, 415, "unsupported-media-type")
        assert set(answer.headers["accept-patch"].split(", ")) == {
            "application/merge-patch+json",
            "application/json",
        }
    assert (await client.get("/items/1")).json()["version"] == 1
