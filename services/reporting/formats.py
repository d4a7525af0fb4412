"""How a report is written: JSON, or CSV for spreadsheets. `?format=` decides, else `Accept`."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

import structlog
from aiohttp import web

from shared.db import Record
from shared.errors import NotAcceptable
from shared.recorder import ROWS
from shared.web import Call, Streamed

_MEDIA_TYPES: Final = {"application/json": "json", "text/csv": "csv"}
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_FLUSH_BYTES: Final = 64 << 10
log = structlog.get_logger("formats")


def choose(given: str | None, accept: str) -> str:
    """The format asked for: `json` or `csv`. Raises NotAcceptable when an `Accept` leaves neither."""
    if given is not None:
        return given
    best, weight = "", 0.0
    for name, form in _MEDIA_TYPES.items():
        wanted = _weight(name, accept)
        if wanted > weight:
            best, weight = form, wanted
    if not best:
        raise NotAcceptable(f"Reports are given as {' or '.join(_MEDIA_TYPES)}")
    return best


def _weight(media_type: str, accept: str) -> float:
    """How much an Accept header wants a media type: the q of its most specific range, 0 for not at all."""
    ranges = {media_type: 3, media_type.partition("/")[0] + "/*": 2, "*/*": 1}
    found = (0, 0.0)
    for item in accept.split(",") if accept.strip() else ["*/*"]:
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        if name in ranges:
            found = max(found, (ranges[name], _quality(parameters)))
    return found[1]


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                return 0.0
    return 1.0


async def stream_csv(
    call: Call, name: str, columns: Sequence[str], rows: AsyncIterator[Record], headers: dict[str, str]
) -> web.StreamResponse:
    """All rows as they come, one line each under a header of the columns' names. Amounts stay integer cents.

    A failure on the way cuts the connection, so that half a file is never taken for a whole one."""
    response = Streamed(
        headers={
            **headers,
            "Content-Type": "text/csv; charset=utf-8",
            "Content-Disposition": f'attachment; filename="{name}.csv"',
        }
    )
    response[ROWS] = 0
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(columns)
    try:
        async for row in rows:
            response[ROWS] += 1
            writer.writerow([cell(row[column]) for column in columns])
            if buffer.tell() >= _FLUSH_BYTES:
                await _send(call, response, buffer)
        await _send(call, response, buffer)
        await response.write_eof()
    except Exception:
        if not response.prepared:
            raise
        log.warning("export_cut_off", report=name, exc_info=True)
        if call.request.transport is not None:
            call.request.transport.abort()
    return response


async def _send(call: Call, response: web.StreamResponse, buffer: io.StringIO) -> None:
    await call.still_allowed()
    # Not before there is something to send: until then a failure can still be a proper answer.
    if not response.prepared:
        await response.prepare(call.request)
    await response.write(buffer.getvalue().encode())
    buffer.seek(0)
    buffer.truncate()


def cell(value: Any) -> str | int:
    """A value as a CSV cell. Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
