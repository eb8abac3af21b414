"""Configuration, read once at the start from the environment, `.env` and secret files."""

import os
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from limits import parse_many
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from service.domain.api_key import ApiKey, parse_keys

# Docker and Kubernetes mount secrets here: one file for each setting, named as the setting.
SECRETS_DIR = Path("/run/secrets")

URL_PARAMETERS = {"channel_binding", "host", "port", "ssl", "sslmode", "target_session_attrs"}
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSIONS = ("any", "primary", "standby", "read-write", "read-only", "prefer-standby")
URL_VALUES = {"ssl": SSL_MODES, "sslmode": SSL_MODES, "target_session_attrs": SESSIONS}
ORIGIN = re.compile(r"https?://([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
CGROUPS = Path("/sys/fs/cgroup")


def parse_database_url(value: str) -> URL:
    """Return PostgreSQL's address as SQLAlchemy's, for asyncpg.

    Raises:
        ValueError: it is not an address, or asks for something unsupported.
    """
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        # The cause would show the password in the address.
        raise ValueError(
            "is not a database address; if it has several hosts, write them as "
            "postgresql://user@/database?host=one:5432&host=two:5432"
        ) from None
    if url.drivername not in ("postgres", "postgresql", "postgresql+asyncpg"):
        raise ValueError("must begin with postgresql://, postgres:// or postgresql+asyncpg://")
    if not url.query.keys() <= URL_PARAMETERS:
        raise ValueError(f"may only have the parameters {', '.join(sorted(URL_PARAMETERS))}")
    for name, values in URL_VALUES.items():
        if url.query.get(name, values[0]) not in values:
            raise ValueError(f"{name} must be one of {', '.join(values)}")
    host = unquote(url.host or "")
    if host.startswith("/"):  # the folder of a socket
        port = {"port": str(url.port)} if url.port is not None else {}
        url = url.set(host=None, port=None).update_query_dict({"host": host, **port})
    elif not re.fullmatch(r"[A-Za-z0-9_.:%-]*", host):
        raise ValueError("has an invalid host; for several hosts, use ?host=one:5432&host=two:5432")
    # Providers print libpq's `sslmode`; asyncpg takes the same values as `ssl`, and negotiates
    # channel binding itself.
    mode = url.query.get("sslmode")
    url = url.set(drivername="postgresql+asyncpg")
    url = url.difference_update_query(["sslmode", "channel_binding"])
    url = url.update_query_dict({"ssl": mode}) if mode else url
    _check_ports(url)
    return url


def _check_ports(url: URL) -> None:
    try:
        _, options = url.get_dialect()().create_connect_args(url)
        ports = options.get("port", url.port)
        for port in ports if isinstance(ports, list) else [ports]:
            if port is not None and not 1 <= port <= 65535:
                raise ArgumentError
    except ArgumentError:
        raise ValueError("has an invalid port; several hosts require one each") from None


def _check_database_url(value: SecretStr) -> SecretStr:
    parse_database_url(value.get_secret_value())
    return value


def _check_rate_limit(value: str) -> str:
    try:
        parse_many(value) if value else None
    except ValueError:
        raise ValueError("must be like 10/minute, or empty") from None
    return value


def _check_redis_url(value: SecretStr) -> SecretStr:
    try:
        url = urlsplit(value.get_secret_value())
        _ = url.port
    except ValueError:  # such as a port that is not a number
        raise ValueError("is not a URL") from None
    if url.scheme not in ("redis", "rediss") or not url.hostname:
        raise ValueError("must be like redis://host:6379")
    return value


def _parse_keys(value: Any) -> Any:
    return parse_keys(value) if isinstance(value, str) else value


def _split(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return tuple(part for part in (part.strip() for part in value.split(",")) if part)


def _check_host(value: str) -> str:
    if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]|\*", value):
        raise ValueError("must be names like api.example.com or *.example.com, without a port")
    return value.lower()


def _check_origin(value: str) -> str:
    if value != "*" and not ORIGIN.fullmatch(value):
        raise ValueError("must be origins like https://app.example.com, without a path")
    return value


DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_check_redis_url)]
RateLimit = Annotated[str, AfterValidator(_check_rate_limit)]
# NoDecode: pydantic-settings would expect JSON for a tuple.
ApiKeys = Annotated[tuple[ApiKey, ...], NoDecode, BeforeValidator(_parse_keys)]
Hosts = Annotated[
    tuple[Annotated[str, AfterValidator(_check_host)], ...], NoDecode, BeforeValidator(_split)
]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_check_origin)], ...], NoDecode, BeforeValidator(_split)
]


def available_cores(cgroups: Path = CGROUPS) -> int:
    """Return the number of usable cores: the CPU affinity, limited by a container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        if (version_2 := cgroups / "cpu.max").exists():
            quota, period = version_2.read_text().split()
        else:
            quota = (cgroups / "cpu" / "cpu.cfs_quota_us").read_text()
            period = (cgroups / "cpu" / "cpu.cfs_period_us").read_text()
        limit = int(quota) // int(period)
    except (OSError, ValueError):  # not Linux, or a quota of "max"
        return cores or 1
    # Version 1 has a quota of -1 if there is none.
    return max(1, min(cores or 1, limit)) if int(quota) > 0 else cores or 1


class Settings(BaseSettings):
    """Every setting with its default; `.env.example` describes them for users."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        secrets_dir=SECRETS_DIR if SECRETS_DIR.is_dir() else None,
    )

    database_url: DatabaseUrl | None = None
    pool_size: int = Field(20, ge=1)
    max_overflow: int = Field(10, ge=0)
    pool_timeout: float = Field(2, gt=0)
    pool_recycle: int = Field(3600, ge=-1)
    pool_pre_ping: bool = False
    connect_timeout: float = Field(3, gt=0)
    statement_timeout_ms: int = Field(5000, ge=1, le=2**31 - 1)

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    web_concurrency: int = Field(default_factory=available_cores, ge=1)
    forwarded_allow_ips: str = "127.0.0.1"

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] = "json"
    debug: bool = False

    rate_limit_write: RateLimit = ""
    rate_limit_read: RateLimit = ""
    rate_limit_ipv6_prefix: int = Field(64, ge=1, le=128)
    redis_url: RedisUrl | None = None

    request_timeout: float = Field(10, gt=0)
    queue_limit: int = Field(2000, ge=1)
    max_body_bytes: int = Field(1024 * 1024, ge=1)
    max_bulk_bytes: int = Field(16 * 1024 * 1024, ge=1)
    export_timeout: float = Field(3600, gt=0)
    max_exports: int = Field(2, ge=1)

    api_keys: ApiKeys = ()
    require_if_match: bool = False
    idempotency_ttl: int = Field(24 * 3600, ge=1)
    allowed_hosts: Hosts = ()
    cors_origins: Origins = ()
    docs_enabled: bool = True
    metrics_enabled: bool = True

    @property
    def engine_url(self) -> URL:
        """Return the database's URL for SQLAlchemy on asyncpg.

        Raises:
            RuntimeError: `DATABASE_URL` is not set.
        """
        if self.database_url is None:
            raise RuntimeError("DATABASE_URL is not set")
        return parse_database_url(self.database_url.get_secret_value())


@cache
def get_settings() -> Settings:
    """Return the process's settings.

    Raises:
        SystemExit: a value is invalid; the message has one line for each fault, without the value.
    """
    try:
        return Settings()
    except ValidationError as exc:
        lines = ["The configuration is invalid:"]
        for error in exc.errors(include_input=False, include_url=False):
            name = ".".join(map(str, error["loc"])).upper()
            lines.append(f"{name}: {error['msg'].removeprefix('Value error, ')}")
        raise SystemExit("\n".join(lines)) from None
