"""Writes down who saw what: a queue in each API process, written many entries in one statement.

An entry joins the queue when the answer is known, and is in the database within a fraction of a second; a process that
is killed takes at most that much with it. While the queue cannot be written for ten seconds, or is full, nothing more
is shown (503): a read that leaves no trace would be worse than one that has to wait (decision record 15).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin
from uuid import UUID

import asyncpg
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge
from pydantic import BaseModel

from shared import audit
from shared.access.policy import BREAK_GLASS
from shared.access.principal import Principal
from shared.audit import AuditEntry, alert
from shared.db import BUSY_OR_AWAY, acquire
from shared.errors import Problem, Unavailable
from shared.ids import uuid7

if TYPE_CHECKING:
    from shared.web.endpoint import Endpoint

_FLUSH_SECONDS: Final = 0.2
_BATCH: Final = 1_000
_MOST_WAITING: Final = 20_000
_PATIENCE_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 0.5
_CLOSING_SECONDS: Final = 5.0
_BROKEN_OFF: Final = 499
"""Status of a call whose caller went away before its answer was complete."""

ROWS: Final = web.ResponseKey("audit_rows", int)
"""How many rows an answer shows."""
SHOWN: Final = web.ResponseKey("audit_shown", list)
"""The ids of the objects that an answer shows, as many as are told."""
QUERY: Final = web.RequestKey("audit_query", BaseModel)
BODY: Final = web.RequestKey("audit_body", BaseModel)
log = structlog.get_logger("audit")


def tell_rows(response: web.StreamResponse, items: Sequence[Any]) -> None:
    """Note on an answer how many rows it shows, and the ids of those that have one."""
    response[ROWS] = len(items)
    ids = [one.get("id") if isinstance(one, dict) else getattr(one, "id", None) for one in items]
    response[SHOWN] = [one if isinstance(one, UUID) else UUID(one) for one in ids if one and _is_id(str(one))]


class Recorder:
    """The audit of one process's API. `writes`: what changes something without moving money is recorded here; false
    where the use cases write it down themselves."""

    def __init__(self, registry: CollectorRegistry, *, writes: bool = True) -> None:
        self._writes = writes
        self._waiting: deque[tuple[float, AuditEntry]] = deque()
        self._awake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self._size = _BATCH
        registry.register(audit.ALERTS)
        count = Gauge("audit_waiting_entries", "Entries of the audit not yet written", registry=registry)
        count.set_function(lambda: float(len(self._waiting)))
        age = Gauge("audit_waiting_seconds", "Age of the oldest entry of the audit not yet written", registry=registry)
        age.set_function(self.waiting_seconds)

    def start(self, pool: asyncpg.Pool) -> None:
        self._task = asyncio.create_task(self._run(pool))

    async def close(self) -> None:
        """Write what is waiting; what cannot be written within five seconds is counted in the log."""
        self._closing = True
        self._awake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_CLOSING_SECONDS)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._waiting:
            log.error("audit_entries_lost", entries=len(self._waiting))

    def waiting_seconds(self) -> float:
        return time.monotonic() - self._waiting[0][0] if self._waiting else 0.0

    def admit(self) -> None:
        """Raises Unavailable when what is shown could not be written down: then it is not shown."""
        if len(self._waiting) >= _MOST_WAITING or self.waiting_seconds() > _PATIENCE_SECONDS:
            raise Unavailable("Reads cannot be written into the audit at present")

    async def recorded(
        self,
        request: web.Request,
        request_id: str,
        endpoint: Endpoint,
        caller: Principal,
        answer: Callable[[web.Request, Principal], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        """The answer to a call, written into the audit when it belongs there. One that is broken off is written down
        too (status 499): part of it may have been seen."""
        if caller.is_internal or not endpoint.in_audit:
            return await answer(request, caller)
        if not endpoint.idempotent:
            self.admit()
        status, response = _BROKEN_OFF, None
        try:
            response = await answer(request, caller)
            status = response.status
            return response
        except Problem as problem:
            status = problem.status
            raise
        finally:
            if self._belongs(endpoint, caller, status):
                self._add(_entry(request, request_id, endpoint, caller, status, response))

    def _belongs(self, endpoint: Endpoint, caller: Principal, status: int) -> bool:
        if status == 403 or caller.role == BREAK_GLASS:
            return True
        if status >= 400 and status != _BROKEN_OFF:
            return False  # Nothing was shown and nothing done.
        # Money that moved is told by its posting.
        return endpoint.method == "GET" or (self._writes and not endpoint.idempotent)

    def _add(self, entry: AuditEntry) -> None:
        if entry.actor_role == BREAK_GLASS:
            alert("break_glass_used", actor_id=entry.actor_id, action=entry.action, status=entry.status)
        self._waiting.append((time.monotonic(), entry))
        self._awake.set()

    async def _run(self, pool: asyncpg.Pool) -> None:
        while self._waiting or not self._closing:
            await self._awake.wait()
            if not self._closing:
                await asyncio.sleep(_FLUSH_SECONDS)
            self._awake.clear()
            while self._waiting and await self._flush(pool):
                pass
            if self._waiting:
                await asyncio.sleep(_RETRY_SECONDS)
            if self._waiting or self._closing:
                self._awake.set()

    async def _flush(self, pool: asyncpg.Pool) -> bool:
        """Write the oldest entries; false when that has to wait."""
        batch = [entry for _, entry in list(self._waiting)[: self._size]]
        try:
            async with acquire(pool) as connection:
                await audit.insert(connection, batch)
        except (Unavailable, TimeoutError, *BUSY_OR_AWAY):
            log.warning("audit_put_off", entries=len(self._waiting), exc_info=True)
            return False
        except Exception:
            # One entry that can never be written must not hold back all others: it is found by trying them singly.
            if len(batch) > 1:
                self._size = 1
                return True
            log.error("audit_entry_refused", exc_info=True)
            alert("audit_entry_refused", action=batch[0].action, request_id=batch[0].request_id)
        for _ in batch:
            self._waiting.popleft()
        self._size = min(2 * self._size, _BATCH)
        return True


def _entry(
    request: web.Request,
    request_id: str,
    endpoint: Endpoint,
    caller: Principal,
    status: int,
    response: web.StreamResponse | None,
) -> AuditEntry:
    details: dict[str, Any] = {}
    if filters := dict(_filters(request.get(QUERY))):
        details["filters"] = filters
    if response is not None:
        if (rows := response.get(ROWS)) is not None:
            details["rows"] = rows
        if response.content_type not in ("application/json", "application/problem+json"):
            details["type"] = response.content_type
    body = request.get(BODY)
    path = [value for value in request.match_info.values() if _is_id(value)]
    return AuditEntry(
        id=uuid7(),
        at=datetime.now(UTC),
        action=f"{endpoint.method} {endpoint.path}",
        actor_id=caller.subject,
        actor_name=caller.user_name,
        subject_id=path[-1].lower() if path else None,
        company_ids=_companies(caller, endpoint, path, status),
        changed=tuple(sorted(body.model_fields_set)) if body is not None else (),
        request_id=request_id,
        actor_role=caller.role,
        address=audit.current_address(),
        status=status,
        shown=tuple(response.get(SHOWN, ())) if response is not None else (),
        details=details,
    )


def _companies(caller: Principal, endpoint: Endpoint, path: list[str], status: int) -> tuple[UUID, ...]:
    """The caller's company; for the operator, who has none, the one that the path names, if it is there."""
    if caller.company_id is not None:
        return (caller.company_id,)
    named = endpoint.path.startswith("/v1/companies/{id}") and status < 400
    return (UUID(path[0]),) if named else ()


def _is_id(text: str) -> bool:
    try:
        return len(text) == 36 and bool(UUID(text))
    except ValueError:
        return False


def _filters(query: BaseModel | None) -> Iterator[tuple[str, Any]]:
    """What was asked for, by parameter. Ids, dates, numbers and words of ours are kept; of what else was typed only
    that it was (null): it may be a name or an account number."""
    if query is None:
        return
    for name in sorted(query.model_fields_set - {"cursor"}):
        parameter = type(query).model_fields[name].alias or name
        value = getattr(query, name)
        many = value if isinstance(value, (list, tuple)) else [value]
        ours = _ours(type(query), name)
        kept = [_plain(one) for one in many if ours or isinstance(one, (UUID, date, int))]
        yield parameter, None if not kept else kept if isinstance(value, (list, tuple)) else kept[0]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, (UUID, date)) else value


@cache
def _ours(model: type[BaseModel], name: str) -> bool:
    """Whether a parameter takes nothing but words from a fixed list."""
    return _literal(model.model_fields[name].annotation)


def _literal(annotation: Any) -> bool:
    if annotation is NoneType or get_origin(annotation) is Literal:
        return True
    return bool(get_args(annotation)) and all(_literal(one) for one in get_args(annotation) if not _is_metadata(one))


def _is_metadata(argument: Any) -> bool:
    """What `Annotated` adds to a type."""
    return not isinstance(argument, type) and get_origin(argument) is None and argument is not NoneType
