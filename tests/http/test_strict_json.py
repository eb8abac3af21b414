"""Bodies as JSON: exact numbers, and bounds on what a body holds."""

import time

import httpx2 as httpx

from service.http.json_body import MAX_TOKENS
from tests.support.problems import MARK, check_problem
from tests.support.waiting import TIMEOUT

JSON = {"Content-Type": "application/json"}
SIZE = 16 * 1024**2 - 100  # just below the limit of a bulk
BEGIN = b'{"items": [{"name": "Lamp", "price": '
# What makes a parser slow that reads anything twice.
HOSTILE = {
    "brackets": b"[" * SIZE,
    "members": b'{"a":1,' * (SIZE // 7),
    "digits": BEGIN + b"1" * SIZE,
    "decimals": BEGIN + b"0." + b"1" * SIZE,
    "long numbers": BEGIN + b",".join([b"1" * 1000] * (SIZE // 1001)),
    "escaped quotes": BEGIN + b'"' + b'\\"' * (SIZE // 2),
    "strings that end in a backslash": BEGIN + b",".join([b'"%b\\\\"' % (b"x" * 200)] * 80_000),
}


async def create(client: httpx.AsyncClient, price: str, rest: str = "0") -> httpx.Response:
    content = f'{{"name": "Lamp", "price": {price}, "ignored": {rest}}}'
    return await client.post("/items", content=content, headers=JSON)


async def test_a_price_is_read_exactly(client: httpx.AsyncClient) -> None:
    for price in ("29.99", "29.990000000000000000000", "2999e-2", "9999999999.99"):
        answer = await create(client, price)
        assert (answer.status_code, answer.json().get("price")) == (201, float(price)), price
    # As doubles these are prices with two decimals.
    for price in ("29.990000000000000000001", f"29.99{'0' * 2000}1", "9999999999.98999999999999"):
        assert (await create(client, price)).status_code == 422, price


async def test_a_repeated_member_is_refused(client: httpx.AsyncClient) -> None:
    content = f'{{"name": "Lamp", "{MARK}": 1, "{MARK}": 2}}'
    answer = await client.post("/items", content=content, headers=JSON)

    check_problem(answer, 422, "invalid-input")


async def test_values_digits_and_nesting_are_bounded(client: httpx.AsyncClient) -> None:
    strings = ",".join([r'"\"[,{"'] * 50_000)
    for rest in (zeros(MAX_TOKENS - 3), f"[{strings}]", "1" * 4000, "[" * 100 + "]" * 100):
        assert (await create(client, "1", rest)).status_code == 201, f"{rest:.20}"
    more = f"[{strings},{zeros(150_000)}]"
    for rest in (zeros(MAX_TOKENS - 2), more, "1" * 5000, "[" * 300 + "]" * 300):
        assert (await create(client, "1", rest)).status_code == 422, f"{rest:.20}"


def zeros(count: int) -> str:
    return f"[{','.join(['0'] * count)}]"


async def test_large_hostile_bodies_are_refused_in_linear_time(client: httpx.AsyncClient) -> None:
    for kind, content in HOSTILE.items():
        begun = time.monotonic()
        answer = await client.post("/items/bulk", content=content, headers=JSON)
        seconds = time.monotonic() - begun

        print(f"{kind}: {seconds:.2f} s")
        assert answer.status_code == 422, kind
        assert seconds < TIMEOUT  # quadratic time takes hours
