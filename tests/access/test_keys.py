"""API keys: how they are made and configured, and that no output ever shows one."""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.domain.api_key import SCOPES, create_key, parse_keys
from service.main import create_app
from service.settings import Settings, get_settings
from tests.support.apps import serving
from tests.support.commands import items
from tests.support.logs import logged_client
from tests.support.samples import LAMP

READ, WRITE, DELETE = "items:read", "items:write", "items:delete"
SHOP, SHOP_ENTRY = create_key("shop", [READ, WRITE])
WRONG = "items_hunter2hunter2hunter2hunter2hunter2hunter2hunt"
DIGEST = hashlib.sha256(WRONG.encode()).hexdigest()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Settings]]:
    """A function that reads the settings from an environment with API_KEYS alone."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)

    def start_with(api_keys: str) -> Settings:
        monkeypatch.setenv("API_KEYS", api_keys)
        get_settings.cache_clear()
        return get_settings()

    yield start_with
    get_settings.cache_clear()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The default settings, with one key and the most verbose log."""
    settings.api_keys = parse_keys(SHOP_ENTRY)
    settings.log_level = "DEBUG"
    return settings


def entry(name: str = "shop", digest: str = DIGEST, scopes: str = READ) -> str:
    return f"{name}:{digest}:{scopes}"


@pytest.mark.parametrize("between", [" ", "\r\n", "\t", ";", " ;\n; "])
def test_entries_are_separated_by_whitespace_or_semicolons(
    start: Callable[[str], Settings], between: str
) -> None:
    entries = [entry("one"), entry("two", scopes=f"{READ},{WRITE}"), entry("3-_.", "0" * 64)]
    settings = start(f"{between}{between.join(entries)}{between}")

    assert [(key.name, key.digest, sorted(key.scopes)) for key in settings.api_keys] == [
        ("one", DIGEST, [READ]),
        ("two", DIGEST, [READ, WRITE]),
        ("3-_.", "0" * 64, [READ]),
    ]


@pytest.mark.parametrize(
    "api_keys",
    [
        "hunter2",
        f"hunter2:{WRONG}:items:read",
        entry(""),
        entry("hunter/2"),
        entry("h" * 65),
        entry("hunter2", DIGEST[:-1]),
        entry("hunter2", f"{DIGEST}0"),
        entry("hunter2", DIGEST.upper()),
        entry("hunter2", f"{DIGEST[:-1]}\u0663"),  # an Arabic digit
        entry("hunter2", scopes=""),
        entry("hunter2", scopes="ITEMS:READ"),
        entry("hunter2", scopes="items:read,"),
        f"{entry('hunter2')},{entry('hunter3')}",
    ],
    ids=lambda api_keys: api_keys.replace(DIGEST, "DIGEST")[:60].encode("unicode_escape"),
)
def test_a_malformed_entry_stops_the_start_and_is_not_repeated(
    start: Callable[[str], Settings], api_keys: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start(api_keys)
    title, line = str(stopped.value).splitlines()

    assert title == "The configuration is invalid:"
    assert re.fullmatch(r"API_KEYS: entry 1 must \S.*", line)
    assert "hunter" not in line
    assert DIGEST[:8] not in line.lower()


def test_the_error_names_the_malformed_entry_by_number(start: Callable[[str], Settings]) -> None:
    with pytest.raises(SystemExit, match="API_KEYS: entry 3 "):
        start(f"\n{entry('one')};\n{entry('two')}\n\n{entry('three', scopes='none')}\n")


def test_api_keys_without_an_entry_stop_the_start(start: Callable[[str], Settings]) -> None:
    # A secret file left empty by mistake must not let everyone in.
    with pytest.raises(SystemExit, match="API_KEYS: must have at least one entry"):
        start(" ;\n")


def test_neither_errors_nor_settings_show_a_digest() -> None:
    with pytest.raises(ValidationError) as wrong:
        Settings.model_validate({"api_keys": entry(scopes="hunter2")})
    right = Settings(_env_file=None, api_keys=entry())

    assert not re.search(f"hunter2|{DIGEST}", f"{wrong.value!s} {wrong.value!r} {right!r}")


def test_keys_may_stand_in_a_secret_file_or_in_the_env_file(
    start: Callable[[str], Settings], tmp_path: Path
) -> None:
    entries = f"{entry('one')}\n{entry('two')}\n"
    (tmp_path / "api_keys").write_text(entries)
    (tmp_path / ".env").write_text(f'API_KEYS="{entries}"\n')

    for settings in (Settings(_env_file=None, _secrets_dir=tmp_path), start("")):
        assert [key.name for key in settings.api_keys] == ["one", "two"]


def test_key_create_prints_the_key_and_an_entry_with_its_digest_only() -> None:
    keys = []
    for _ in range(2):
        ran = items("key", "create", "shop", "--scope", WRITE, "--scope", READ)
        lines = re.fullmatch(r"The key,[^:]*: (\S+)\nThe entry[^:]*: (\S+)\n", ran.stdout)

        assert lines
        key, made = lines.groups()
        keys.append(key)
        digest = hashlib.sha256(key.encode()).hexdigest()
        assert re.fullmatch(r"items_[A-Za-z0-9_-]{43}", key)
        assert made == f"shop:{digest}:{WRITE},{READ}"
        assert (ran.exit_code, ran.stderr) == (0, "")

    assert len(set(keys)) == 2


@pytest.mark.parametrize(
    ("name", "scopes", "words"),
    [
        *((name, [READ], ["name"]) for name in ("", "a b", "shop\n", "a:b", "\u00e9", "x" * 65)),
        (f"{entry('other')} shop", [READ], ["name"]),
        ("shop", [], ["--scope", *SCOPES]),
        ("shop", ["items:admin"], ["--scope", *SCOPES]),
        ("shop", ["items:read,items:write"], ["--scope", *SCOPES]),
    ],
)
def test_key_create_refuses_a_malformed_name_and_an_unknown_scope(
    name: str, scopes: list[str], words: list[str]
) -> None:
    ran = items("key", "create", *(f"--scope={scope}" for scope in scopes), "--", name)

    assert ran.exit_code in (1, 2)
    assert "Error: " in ran.stderr
    assert all(word in ran.stderr for word in words)
    assert ran.stdout == ""


async def test_keys_of_the_same_name_work_side_by_side(settings: Settings) -> None:
    # So that a client can be given a new one before the old one is removed.
    (old, one), (new, two) = create_key("shop", [READ]), create_key("shop", [READ, WRITE])
    settings.api_keys = parse_keys(f"{one};{two}")
    async with serving(create_app(settings)) as client:
        for key, status in ((old, 403), (new, 201)):
            headers = {"Authorization": f"Bearer {key}"}
            assert (await client.get("/items", headers=headers)).status_code == 200
            # Each has its own scopes.
            assert (await client.post("/items", json=LAMP, headers=headers)).status_code == status


async def test_the_log_names_the_client_by_its_key(settings: Settings) -> None:
    good = {"Authorization": f"Bearer {SHOP}"}
    async with logged_client(settings) as (client, log):
        for answer, status, key in (
            (await client.post("/items", json=LAMP, headers=good), 201, "shop"),
            (await client.get("/items/0", headers=good), 404, "shop"),
            (await client.delete("/items/0?permanent=true", headers=good), 403, "shop"),
            (await client.get("/items"), 401, None),
            (await client.get("/items", headers={"Authorization": f"Bearer {WRONG}"}), 401, None),
            (await client.get("/items", headers={"Authorization": f"Basic {SHOP}"}), 401, None),
            (await client.get("/health/live", headers=good), 200, None),
        ):
            line = await log.line_of(answer)
            assert (line["status"], line["key"]) == (status, key)


async def test_the_log_never_shows_a_key_or_its_digest(settings: Settings) -> None:
    good = {"Authorization": f"Bearer {SHOP}"}
    async with logged_client(settings) as (client, log):
        for answer in (
            await client.get("/items", headers=good),
            await client.get("/items", headers={"Authorization": f"Bearer {WRONG}"}),
            await client.get("/items", headers={"Authorization": SHOP}),
            await client.get("/items", params={"access_token": SHOP}),
            await client.get(f"/items/{SHOP}", headers=good),
            await client.get(f"/{SHOP}"),
            await client.post("/items", content=SHOP, headers=good),
        ):
            await log.line_of(answer)

    for secret in (SHOP, hashlib.sha256(SHOP.encode()).hexdigest(), WRONG, DIGEST):
        assert secret not in log.text()
