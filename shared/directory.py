"""A service's own copy of what identity says: companies, locations, users, machine clients.

Fed by identity's events, from the bus and from identity's log; both are idempotent, because each event carries a
whole state and its version. A service that meets something it has not heard of calls `catch_up()` once before it
refuses. Each service that uses this has these tables in its migrations: `directory_company`, `directory_location`,
`directory_user`, `directory_client`, `directory_progress`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import structlog
from pydantic import ValidationError

from shared.bus import BILLING_EVENTS, Message, Outcome, Subscription
from shared.contracts.envelope import Contract, Event
from shared.contracts.identity_events import STATES, ClientState, CompanyState, LocationState, UserState
from shared.db import acquire
from shared.errors import Unavailable
from shared.identity_client import ServiceClient

_PAGE: Final = 500
log = structlog.get_logger("directory")

_TABLES: Final[dict[type[Contract], tuple[str, str]]] = {
    CompanyState: ("directory_company", "company_id"),
    LocationState: ("directory_location", "company_id, location_id"),
    UserState: ("directory_user", "user_id"),
    ClientState: ("directory_client", "client_id"),
}


def _upsert(kind: type[Contract], table: str, key: str) -> str:
    """Insert a state, or replace one of a lower version. The columns are the contract's fields."""
    names = list(kind.model_fields)
    values = ", ".join(f"${place}" for place in range(1, len(names) + 1))
    changes = ", ".join(f"{name} = excluded.{name}" for name in names)
    return (
        f"insert into {table} as mine ({', '.join(names)}) values ({values})"  # noqa: S608
        f" on conflict ({key}) do update set {changes} where mine.version < excluded.version"
    )


_UPSERTS: Final = {kind: _upsert(kind, *place) for kind, place in _TABLES.items()}


class Directory:
    """Keeps the directory tables of one service up to date."""

    def __init__(self, pool: asyncpg.Pool, identity: ServiceClient) -> None:
        self._pool = pool
        self._identity = identity
        self._lock = asyncio.Lock()
        self._caught_up_since = -float("inf")

    @staticmethod
    def subscription(queue: str) -> Subscription:
        return Subscription(queue=queue, exchange=BILLING_EVENTS, routing_keys=("identity.#",), batch_size=100)

    async def handle(self, batch: Sequence[Message]) -> Sequence[Outcome]:
        """Bus handler: apply the states of a batch; what cannot be understood is parked."""
        outcomes, states = [], []
        for message in batch:
            state = _state(message.type, message.body)
            outcomes.append(Outcome.PARK if state is None else Outcome.DONE)
            if state is None:
                log.warning("identity_event_parked", type=message.type, message_id=message.message_id)
            else:
                states.append(state)
        async with acquire(self._pool) as connection, connection.transaction():
            await _apply(connection, states)
        return outcomes

    async def catch_up(self) -> None:
        """Read identity's log from where we stopped. One reader at a time: a call that waited for one which began
        after it asked has what it asked for. Raises `Unavailable` when identity is away."""
        asked_at = time.monotonic()
        async with self._lock:
            if self._caught_up_since >= asked_at:
                return
            began_at = time.monotonic()
            async with acquire(self._pool) as connection:
                position = await connection.fetchval("select position from directory_progress") or 0
                while True:
                    page = await self._identity.get("/v1/events", {"after": position, "limit": _PAGE})
                    if not page["items"]:
                        break
                    states = [_known(item["event"]) for item in page["items"]]
                    position = page["items"][-1]["position"]
                    async with connection.transaction():
                        await _apply(connection, [state for state in states if state is not None])
                        await connection.execute(
                            "insert into directory_progress as p (only_row, position) values (true, $1)"
                            " on conflict (only_row) do update set position = greatest(p.position, excluded.position)",
                            position,
                        )
            self._caught_up_since = began_at

    async def run(self, stop: asyncio.Event) -> None:
        """Catch up at start, retrying until identity answers, and every minute after: a net under the bus."""
        while not stop.is_set():
            try:
                await self.catch_up()
                pause = 60.0
            except Unavailable:
                pause = 1.0
            try:
                await asyncio.wait_for(stop.wait(), pause)
            except TimeoutError:
                continue


async def _apply(connection: Any, states: Sequence[Contract]) -> None:
    for kind, statement in _UPSERTS.items():
        rows = [tuple(state.__dict__.values()) for state in states if type(state) is kind]
        if rows:
            # Sorted, so that two appliers take the rows' locks in one order.
            await connection.executemany(statement, sorted(rows, key=lambda row: str(row[:2])))


def _state(kind: str, body: bytes) -> Contract | None:
    model = STATES.get(kind)
    if model is None:
        return None
    try:
        return Event[model].model_validate_json(body).data  # type: ignore[valid-type]
    except ValidationError:
        return None


def _known(event: dict[str, Any]) -> Contract | None:
    """A state from identity's log; a type that this version does not know is passed over."""
    model = STATES.get(event["type"])
    return None if model is None else model.model_validate(event["data"])
