"""Structured logs: one JSON object a line, with the request and correlation ids of whatever is being done.

No patient data, token or secret is ever passed to a logger; messages are constant event names, facts are fields.
"""

from __future__ import annotations

import logging
import sys
import traceback
from pathlib import Path
from typing import Any

import orjson
import structlog


def _dumps(value: Any, **_: Any) -> bytes:
    return orjson.dumps(value, default=str)


def _where(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """Replace `exc_info` by the exception's type and the places it passed, without its message: messages of
    drivers and parsers quote the data they choked on."""
    info = event.pop("exc_info", None)
    if info:
        error = info if isinstance(info, BaseException) else sys.exc_info()[1]
        if error is not None:
            event["exception_type"] = type(error).__name__
            frames = traceback.extract_tb(error.__traceback__)[-12:]
            event["exception_at"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event


def configure(level: str = "info", form: str = "json", service: str = "", file: Path | None = None) -> None:
    """Set up structlog for this process; `form` is `json` or `console`, to standard error or as JSON to the end of a
    file. The standard library's loggers (aiohttp, aio-pika, asyncio) are reduced to warnings and go through the same
    renderer."""
    form = "json" if file else form
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _where,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer(serializer=_dumps) if form == "json" else structlog.dev.ConsoleRenderer()
    )
    factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    if form == "json":
        factory = structlog.BytesLoggerFactory(file.open("ab") if file else sys.stderr.buffer)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    if service:
        structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(handlers=[_Bridge()], level=logging.WARNING, force=True)


class _Bridge(logging.Handler):
    """Hands a standard-library record to structlog: its message only, since arguments may hold payloads."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[0]:
            fields["exception_type"] = record.exc_info[0].__name__
        log.log(record.levelno, "library_message", message=str(record.msg)[:500], **fields)
