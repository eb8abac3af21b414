"""Settings: names, defaults, sources, errors, and the file `.env.example`."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from service.database.engine import create_engine
from service.settings import Settings, available_cores, get_settings
from tests.support.commands import ROOT

SECRET = "hunter2"
EXAMPLE = (ROOT / ".env.example").read_text()
# The meaning above, and the setting: commented out, or with its default.
SETTING = re.compile(r"# (?P<meaning>.+)\n(?P<off># )?(?P<name>[A-Z0-9_]+)=(?P<value>.*)\n")
SHOWN = list(SETTING.finditer(EXAMPLE))


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Neither the environment nor a file `.env` sets anything."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def errors() -> list[str]:
    """Return the lines that a start with wrong settings ends with."""
    with pytest.raises(SystemExit) as stopped:
        get_settings()
    title, *lines = str(stopped.value).splitlines()
    assert title == "The configuration is invalid:"
    return lines


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has it")
def test_web_concurrency_defaults_to_the_number_of_usable_cores() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert get_settings().web_concurrency == 1
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "350000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({}, 64),
    ],
    ids=str,
)
def test_the_quota_of_a_container_limits_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)

    assert available_cores(tmp_path) == cores


def test_the_environment_takes_precedence_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("POOL_SIZE=3\nMAX_OVERFLOW=4\nUNKNOWN=1\n")
    monkeypatch.setenv("POOL_SIZE", "5")

    assert (get_settings().pool_size, get_settings().max_overflow) == (5, 4)


def test_an_empty_value_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # Compose sets a variable that is missing to the empty string.
    before = get_settings()
    for name in Settings.model_fields:
        monkeypatch.setenv(name.upper(), "")
    get_settings.cache_clear()

    assert get_settings() == before


def test_secret_files_come_after_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "database_url").write_text("postgresql://me:hunter2@db/items\n")
    (tmp_path / "port").write_text("1234")
    monkeypatch.setenv("PORT", "5678")

    settings = Settings(_secrets_dir=tmp_path)

    assert settings.engine_url.password == "hunter2"
    assert settings.engine_url.database == "items"
    assert settings.port == 5678


def test_neither_settings_nor_errors_show_secrets() -> None:
    settings = Settings(database_url="postgresql://me:hunter2@db/x", redis_url="redis://:hunter2@r")
    with pytest.raises(ValidationError) as wrong:
        Settings.model_validate({"port": SECRET, "redis_url": SECRET})

    assert SECRET not in f"{settings!r} {settings} {settings.model_dump_json()} {wrong.value}"


@pytest.mark.parametrize(
    ("scheme", "query"),
    [
        ("postgres", {}),
        ("postgresql", {"sslmode": "disable"}),
        ("postgresql+asyncpg", {"ssl": "disable"}),
    ],
)
async def test_each_form_of_the_database_url_connects(
    scheme: str, query: dict[str, str], database_url: str
) -> None:
    url = Settings(database_url=database_url).engine_url.set(drivername=scheme)
    spelled = url.update_query_dict(query).render_as_string(hide_password=False)

    engine = create_engine(Settings(database_url=spelled))
    async with engine.connect() as conn:
        assert await conn.scalar(text("SELECT current_database()")) == url.database
    await engine.dispose()


def test_the_database_url_keeps_its_other_parts() -> None:
    url = Settings(
        database_url="postgres://me:p%40ss%2Fw@db:5433/items?sslmode=require"
        "&target_session_attrs=any&channel_binding=prefer"
    ).engine_url

    assert (url.drivername, url.username, url.password) == ("postgresql+asyncpg", "me", "p@ss/w")
    assert (url.host, url.port, url.database) == ("db", 5433, "items")
    assert dict(url.query) == {"ssl": "require", "target_session_attrs": "any"}


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql://me@%2Fvar%2Frun:5433/items", "/var/run", 5433),
        ("postgresql://me@%2fvar%2frun/items", "/var/run", None),
        ("postgresql://me@/items?host=/var/run&port=5433", "/var/run", 5433),
        ("postgresql://me@[::1]:5433/items", "::1", 5433),
        ("postgresql://me@/items?host=one:1&host=two:2", ["one", "two"], [1, 2]),
        ("postgresql://me@/items?host=one,two&port=1,2", ["one", "two"], [1, 2]),
    ],
)
def test_the_database_url_may_name_a_socket_or_several_hosts(
    url: str, host: str | list[str], port: int | list[int] | None
) -> None:
    parsed = Settings(database_url=url).engine_url
    _, options = parsed.get_dialect()().create_connect_args(parsed)

    assert (options["host"], options.get("port")) == (host, port)


def test_without_a_database_url_there_is_no_engine() -> None:
    with pytest.raises(RuntimeError, match="DATABASE_URL is not set"):
        _ = get_settings().engine_url


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "DATABASE_URL": [
            "mysql://me:hunter2@db/items",
            "postgresql+psycopg://me:hunter2@db/items",
            "hunter2",
            "postgresql://me:hunter2@db:port/items",
            "postgresql://me:hunter2@db/items?application_name=hunter2",
            "postgresql://me:hunter2@db/items?sslmode=hunter2",
            "postgresql://me:hunter2@db/items?ssl=hunter2",
            "postgresql://me:hunter2@db/items?target_session_attrs=hunter2",
            "postgresql://me:hunter2@db/items?connect_timeout=3",
            "postgresql://me:hunter2@db/items?options=-c%20jit%3Doff",
            *(f"postgresql://me:hunter2@db:{port}/items" for port in (0, 99999)),
            *(f"postgresql://me:hunter2@db/items?port={port}" for port in ("0", "x", "1,2")),
            "postgresql://me:hunter2@one,two/items",
            "postgresql://me:hunter2@one:1,two:2/items",
            "postgresql://me:hunter2@/items?host=one,two",
            "postgresql://me:hunter2@/items?host=one:1&host=two",
        ],
        "POOL_SIZE": ["0", "hunter2"],
        "MAX_OVERFLOW": ["-1"],
        "POOL_TIMEOUT": ["0", "nan"],
        "POOL_RECYCLE": ["-2"],
        "STATEMENT_TIMEOUT_MS": ["0", "2147483648"],  # PostgreSQL's integer ends before that
        "PORT": ["0", "65536"],
        "RATE_LIMIT_WRITE": ["hunter2"],
        "RATE_LIMIT_READ": ["10 per hunter2"],
        "REDIS_URL": ["hunter2", "http://:hunter2@cache", "redis://:hunter2@cache:port"],
        **{key: ["0"] for key in ("WEB_CONCURRENCY", "REQUEST_TIMEOUT", "QUEUE_LIMIT")},
        **{key: ["0"] for key in ("MAX_BODY_BYTES", "MAX_BULK_BYTES", "MAX_EXPORTS")},
        **{key: ["hunter2"] for key in ("LOG_LEVEL", "LOG_FORMAT", "DEBUG", "DOCS_ENABLED")},
        "IDEMPOTENCY_TTL": ["0"],
    }.items(),
)
def test_a_wrong_value_stops_the_start_and_is_not_repeated(
    monkeypatch: pytest.MonkeyPatch, name: str, values: list[str]
) -> None:
    for value in values:
        monkeypatch.setenv(name, value)
        (line,) = errors()

        assert re.fullmatch(rf"{name}: \S.*", line)
        assert SECRET not in line


def test_bounds_are_inclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    lowest = dict.fromkeys(("pool_size", "statement_timeout_ms", "port", "web_concurrency"), 1)
    lowest |= {"queue_limit": 1, "max_exports": 1, "idempotency_ttl": 1, "max_body_bytes": 1}
    lowest |= {"max_bulk_bytes": 1, "max_overflow": 0, "pool_recycle": -1}
    highest = {"port": 65_535, "statement_timeout_ms": 2_147_483_647}
    for bounds in (lowest, highest):
        for name, value in bounds.items():
            monkeypatch.setenv(name.upper(), str(value))
        get_settings.cache_clear()

        assert get_settings().model_dump(include=set(bounds)) == bounds


def test_each_wrong_value_has_a_line_whatever_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("PORT=http\n")
    for name in ("POOL_SIZE", "LOG_LEVEL", "DATABASE_URL"):
        monkeypatch.setenv(name, "wrong")

    names = sorted(line.partition(":")[0] for line in errors())
    assert names == ["DATABASE_URL", "LOG_LEVEL", "POOL_SIZE", "PORT"]


def test_the_example_has_every_setting_once_with_its_meaning_above() -> None:
    assert sorted(match["name"].lower() for match in SHOWN) == sorted(Settings.model_fields)
    for match in SHOWN:
        # A sentence, and not the setting before.
        assert re.fullmatch(r"[A-Z][^=]+\.", match["meaning"]), match["meaning"]
    # Nothing else in the file looks like a setting.
    assert len(re.findall(r"^(?:# )?[A-Z0-9_]+=", EXAMPLE, re.MULTILINE)) == len(SHOWN)


@pytest.mark.parametrize("match", SHOWN, ids=lambda match: match["name"])
def test_the_example_shows_the_default_or_is_commented_out(match: re.Match[str]) -> None:
    name = match["name"].lower()
    field = Settings.model_fields[name]
    shown = getattr(Settings.model_validate({name: match["value"]}), name)

    if match["off"]:
        assert field.default_factory is not None or not field.default
        assert shown
    else:
        assert shown == field.default


def test_a_copy_of_the_example_changes_nothing() -> None:
    before = get_settings()
    get_settings.cache_clear()
    Path(".env").write_text(EXAMPLE)

    assert get_settings() == before
