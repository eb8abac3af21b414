"""Settings: names, defaults, sources, faults, and the file `.env.example`."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from service.database import create_engine
from service.settings import Settings, available_cores, get_settings
from tests.support.commands import ROOT

SECRET = "hunter2"
DEFAULTS = {
    "DATABASE_URL": None,
    "POOL_SIZE": 20,
    "MAX_OVERFLOW": 10,
    "POOL_TIMEOUT": 2,
    "POOL_RECYCLE": 3600,
    "POOL_PRE_PING": False,
    "STATEMENT_TIMEOUT_MS": 5000,
    "HOST": "127.0.0.1",
    "PORT": 8000,
    "WEB_CONCURRENCY": available_cores(),
    "FORWARDED_ALLOW_IPS": "127.0.0.1",
    "LOG_LEVEL": "INFO",
    "LOG_FORMAT": "json",
    "DEBUG": False,
    "RATE_LIMIT_WRITE": "",
    "RATE_LIMIT_READ": "",
    "REDIS_URL": None,
    "QUEUE_LIMIT": 2000,
    "MAX_BODY_BYTES": 1_048_576,
    "DOCS_ENABLED": True,
}
EXAMPLE = (ROOT / ".env.example").read_text()
# The meaning above, and the setting: commented out, or with its default.
SETTING = re.compile(r"# (?P<meaning>.+)\n(?P<off># )?(?P<name>[A-Z_]+)=(?P<value>.*)\n")
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


def complaints() -> list[str]:
    """What the start says of wrong settings, line by line."""
    with pytest.raises(SystemExit) as stopped:
        get_settings()
    title, *lines = str(stopped.value).splitlines()
    assert title == "The configuration is wrong:"
    return lines


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_setting_has_the_promised_default(name: str) -> None:
    assert getattr(get_settings(), name.lower()) == DEFAULTS[name]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux has it")
def test_there_are_as_many_workers_as_cores_to_use() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert get_settings().web_concurrency == 1
    finally:
        os.sched_setaffinity(0, cores)


def test_the_environment_sets_and_comes_before_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("POOL_SIZE=3\nMAX_OVERFLOW=4\nUNKNOWN=1\n")
    monkeypatch.setenv("POOL_SIZE", "5")

    assert (get_settings().pool_size, get_settings().max_overflow) == (5, 4)


def test_an_empty_value_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    # Compose sets a variable that is not there to nothing.
    for name in DEFAULTS:
        monkeypatch.setenv(name, "")

    assert {name: getattr(get_settings(), name.lower()) for name in DEFAULTS} == DEFAULTS


def test_secrets_come_from_files_after_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "database_url").write_text("postgresql://me:hunter2@db/items\n")
    (tmp_path / "port").write_text("1234")
    monkeypatch.setenv("PORT", "5678")

    settings = Settings(_secrets_dir=tmp_path)

    assert settings.engine_url.password == "hunter2"
    assert settings.engine_url.database == "items"
    assert settings.port == 5678


def test_secrets_do_not_show() -> None:
    settings = Settings(database_url="postgresql://me:hunter2@db/x", redis_url="redis://:hunter2@r")

    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump_json()}"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
@pytest.mark.parametrize("query", [{}, {"sslmode": "disable"}, {"ssl": "disable"}])
async def test_every_spelling_of_the_database_url_connects(
    scheme: str, query: dict[str, str], database_url: str
) -> None:
    url = Settings(database_url=database_url).engine_url.set(drivername=scheme)
    spelled = url.update_query_dict(query).render_as_string(hide_password=False)

    engine = create_engine(Settings(database_url=spelled))
    async with engine.connect() as conn:
        assert await conn.scalar(text("SELECT current_database()")) == url.database
    await engine.dispose()


def test_the_database_url_keeps_what_else_it_says() -> None:
    url = Settings(
        database_url="postgres://me:p%40ss%2Fw@db:5433/items?sslmode=require&target_session_attrs=any"
    ).engine_url

    assert (url.drivername, url.username, url.password) == ("postgresql+asyncpg", "me", "p@ss/w")
    assert (url.host, url.port, url.database) == ("db", 5433, "items")
    assert dict(url.query) == {"ssl": "require", "target_session_attrs": "any"}


def test_without_a_database_url_there_is_no_engine() -> None:
    with pytest.raises(RuntimeError, match="DATABASE_URL is not set"):
        _ = get_settings().engine_url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://me:hunter2@db/items"),
        ("DATABASE_URL", "postgresql+psycopg://me:hunter2@db/items"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "postgresql://me:hunter2@db:port/items"),
        ("POOL_SIZE", "0"),
        ("POOL_SIZE", "hunter2"),
        ("MAX_OVERFLOW", "-1"),
        ("POOL_TIMEOUT", "0"),
        ("POOL_TIMEOUT", "nan"),
        ("POOL_RECYCLE", "-2"),
        ("POOL_PRE_PING", "hunter2"),
        ("STATEMENT_TIMEOUT_MS", "0"),
        ("STATEMENT_TIMEOUT_MS", "2147483648"),  # past PostgreSQL's integer: no connection opens
        ("PORT", "0"),
        ("PORT", "65536"),
        ("WEB_CONCURRENCY", "0"),
        ("LOG_LEVEL", "hunter2"),
        ("LOG_FORMAT", "hunter2"),
        ("DEBUG", "hunter2"),
        ("RATE_LIMIT_WRITE", "hunter2"),
        ("RATE_LIMIT_READ", "10 per hunter2"),
        ("REDIS_URL", "hunter2"),
        ("REDIS_URL", "http://:hunter2@cache"),
        ("REDIS_URL", "redis://:hunter2@cache:port"),
        ("QUEUE_LIMIT", "0"),
        ("MAX_BODY_BYTES", "0"),
        ("DOCS_ENABLED", "hunter2"),
    ],
)
def test_a_wrong_value_stops_the_start_with_a_line_that_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    (line,) = complaints()

    assert re.fullmatch(rf"{name}: \S.*", line)
    assert SECRET not in line


def test_not_even_the_error_itself_shows_the_value() -> None:
    with pytest.raises(ValidationError) as wrong:
        Settings.model_validate({"port": SECRET, "redis_url": SECRET})

    assert SECRET not in str(wrong.value)


def test_each_fault_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POOL_SIZE", "PORT", "LOG_LEVEL", "RATE_LIMIT_READ", "DATABASE_URL"):
        monkeypatch.setenv(name, "wrong")

    assert sorted(line.partition(":")[0] for line in complaints()) == [
        "DATABASE_URL",
        "LOG_LEVEL",
        "POOL_SIZE",
        "PORT",
        "RATE_LIMIT_READ",
    ]


def test_a_fault_in_the_file_is_found_too() -> None:
    Path(".env").write_text("PORT=http\n")

    (line,) = complaints()

    assert line.startswith("PORT: ")


def test_the_example_has_every_setting_once_with_its_meaning_above() -> None:
    assert sorted(match["name"].lower() for match in SHOWN) == sorted(Settings.model_fields)
    for match in SHOWN:
        # A sentence, and not the setting before.
        assert re.fullmatch(r"[A-Z][^=]+\.", match["meaning"]), match["meaning"]
    # Nothing else in the file looks like a setting.
    assert len(re.findall(r"^(?:# )?[A-Z_]+=", EXAMPLE, re.MULTILINE)) == len(SHOWN)


@pytest.mark.parametrize("match", SHOWN, ids=lambda match: match["name"])
def test_the_example_shows_the_default_or_leaves_the_setting_out(match: re.Match[str]) -> None:
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
