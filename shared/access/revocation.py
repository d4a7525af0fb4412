"""Tokens that are refused before they end, because what they say of their holder is no longer so (quality.md 3.2).

Identity raises a subject's version of rights and says so on the bus; every API process hears it for itself. A request
costs two comparisons then. Between the changes comes a heartbeat: "all that I committed before this instant has been
published". Who has heard none for half a minute believes no token of its own accord and asks identity about each;
when identity is away too, he refuses. The whole argument is in docs/decisions/0014-revocation.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol
from uuid import UUID

import structlog
from pydantic import ValidationError

from shared.access.principal import Principal
from shared.bus import BILLING_EVENTS, Broadcast, Bus, Message, backoff
from shared.contracts.envelope import Event
from shared.contracts.identity_events import ACCESS_CHANGED, HEARTBEAT, HEARTBEAT_KEY, AccessState, Heartbeat
from shared.errors import Unauthenticated, Unavailable

LONGEST_LIFE_SECONDS: Final = 3_600
"""No access token lives longer (`Config.access_token_seconds`)."""
SILENCE_SECONDS: Final = 30.0
BELIEVED_SECONDS: Final = 2.0
_CLOCKS_SECONDS: Final = 60
_INQUIRY_SECONDS: Final = 2.0
_AWAY_SECONDS: Final = 0.5
_MOST_ANSWERS: Final = 10_000
_PAGE: Final = 500
log = structlog.get_logger("revocation")


class Identity(Protocol):
    """The half of `shared.identity_client.ServiceClient` that is needed; both raise `Unavailable`."""

    async def get(self, path: str, params: Any = None) -> Any: ...

    async def post_form(self, path: str, form: Any) -> Any: ...


def stale() -> Unauthenticated:
    return Unauthenticated("Your rights have changed: get a new token", code="token_stale")


class Revocations:
    """The least version of rights that each subject's tokens must have.

    `silence_seconds`: how old the last news may be before tokens are believed no more; `believed_seconds`: how long
    identity's word on one token is good then. Their sum bounds how long a stale token can pass unheard of.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        silence_seconds: float = SILENCE_SECONDS,
        believed_seconds: float = BELIEVED_SECONDS,
    ) -> None:
        self._identity = identity
        self._silence = silence_seconds
        self._least: dict[UUID, int] = {}
        self._aging: deque[tuple[float, UUID, int]] = deque()
        self._heard_at = time.monotonic()
        self._well_until = -float("inf")
        self._listening = 0
        self._complete = False
        self._completing: asyncio.Task[None] | None = None
        self._inquiries = _Inquiries(identity, believed_seconds)
        self.keys_changed: Callable[[], None] = lambda: None
        """Called when the keys that verify tokens must be read again."""

    async def check(self, principal: Principal, token: str) -> None:
        """Raises Unauthenticated (`token_stale`), and Unavailable when nobody can say."""
        if principal.authz_version < self._least.get(principal.subject, 0):
            raise stale()
        if time.monotonic() > self._well_until and not await self._inquiries.good(token):
            raise stale()

    def silent_seconds(self) -> float:
        """Age of the last news that was heard, or of this object."""
        return time.monotonic() - self._heard_at

    @property
    def remembered(self) -> int:
        """How many subjects have a least version."""
        return len(self._least)

    async def listen(self, bus: Bus, service: str, stop: asyncio.Event) -> None:
        """Hear what identity says until `stop`."""
        broadcast = Broadcast(f"access.{service}", BILLING_EVENTS, (ACCESS_CHANGED, HEARTBEAT_KEY))
        try:
            await bus.listen(broadcast, self._opened, self._heard, stop)
        finally:
            if self._completing is not None:
                self._completing.cancel()

    def _opened(self) -> None:
        """What was said before is unheard: ask for it, and do not take a heartbeat for good news until it is here."""
        self._listening += 1
        self._complete = False
        if self._completing is not None:
            self._completing.cancel()
        self._completing = asyncio.create_task(self._catch_up(self._listening))

    async def _catch_up(self, listening: int) -> None:
        pauses = backoff()
        while True:
            began = time.monotonic()
            try:
                await self._read_snapshot()
                break
            except (Unavailable, ValueError, KeyError, TypeError):
                log.debug("access_versions_unread", exc_info=True)
            await asyncio.sleep(next(pauses))
        if listening == self._listening:
            self._complete = True
            self._news(began)
            log.info("access_versions_read", remembered=self.remembered)

    async def _read_snapshot(self) -> None:
        after: int | None = 0
        while after is not None:
            page = await self._identity.get("/v1/access-versions", {"after": after, "limit": _PAGE})
            for item in page["items"]:
                self._learn(AccessState.model_validate(item))
            after = page["next"]

    def _heard(self, message: Message) -> None:
        try:
            if message.type == ACCESS_CHANGED:
                self._learn(Event[AccessState].model_validate_json(message.body).data)
            elif message.type == HEARTBEAT and self._complete:
                as_of = Event[Heartbeat].model_validate_json(message.body).data.as_of
                # An old heartbeat tells how things were then. A clock that is ahead of ours makes it no younger.
                self._news(time.monotonic() - max(0.0, time.time() - as_of.timestamp()))
        except ValidationError:
            log.warning("access_event_unread", type=message.type, message_id=message.message_id)
            self._opened()

    def _news(self, moment: float) -> None:
        self._heard_at = max(self._heard_at, moment)
        self._well_until = max(self._well_until, moment + self._silence)
        self._forget_old()

    def _learn(self, state: AccessState) -> None:
        if state.subject is None:
            self.keys_changed()
        elif state.authz_version > self._least.get(state.subject, 0):
            self._least[state.subject] = state.authz_version
            until = time.monotonic() + LONGEST_LIFE_SECONDS + _CLOCKS_SECONDS
            self._aging.append((until, state.subject, state.authz_version))
        self._forget_old()

    def _forget_old(self) -> None:
        """When every token from before a change has ended, nobody needs to remember it."""
        now = time.monotonic()
        while self._aging and self._aging[0][0] <= now:
            _, subject, version = self._aging.popleft()
            if self._least.get(subject) == version:
                del self._least[subject]


class _Inquiries:
    """Questions about single tokens: one at a time for each, and the answer is good for a moment."""

    def __init__(self, identity: Identity, believed_seconds: float) -> None:
        self._identity = identity
        self._believed = believed_seconds
        self._answers: dict[bytes, tuple[float, bool]] = {}
        self._asking: dict[bytes, asyncio.Task[bool]] = {}
        self._away_until = -float("inf")

    async def good(self, token: str) -> bool:
        digest = hashlib.sha256(token.encode()).digest()
        until, answer = self._answers.get(digest, (-float("inf"), False))
        now = time.monotonic()
        if now <= until:
            return answer
        if now <= self._away_until:
            raise _nobody_can_say()
        asking = self._asking.get(digest)
        if asking is None:
            asking = self._asking[digest] = asyncio.create_task(self._ask(digest, token))
            asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(asking)

    async def _ask(self, digest: bytes, token: str) -> bool:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_INQUIRY_SECONDS):
                answer = await self._identity.post_form("/v1/introspect", {"token": token})
            good = answer["active"] is True
        except (Unavailable, TimeoutError, ValueError, KeyError, TypeError):
            # Identity, or its database, is in trouble: it is not asked by everybody at once.
            self._away_until = time.monotonic() + _AWAY_SECONDS
            raise _nobody_can_say() from None
        finally:
            del self._asking[digest]
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers.clear()
        self._answers[digest] = (began + self._believed, good)
        return good


def _nobody_can_say() -> Unavailable:
    return Unavailable("Whether your rights have changed cannot be found out at the moment")
