"""What a service believes of tokens, by what it has heard: the rules of docs/decisions/0014-revocation.md.

Time is real and short here; the constants of production are in test_revocation_faults.py.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.access import revocation
from shared.access.revocation import Revocations
from shared.access.tokens import KeyCache, TokenVerifier
from shared.bus import BILLING_EVENTS, Message
from shared.contracts.envelope import Contract, Event, encode
from shared.contracts.identity_events import ACCESS_CHANGED, HEARTBEAT, HEARTBEAT_KEY, AccessState, Heartbeat
from shared.errors import Problem, Unauthenticated, Unavailable
from shared.ids import uuid7
from shared.loopback import LoopbackBus
from tests.support.tokens import AUDIENCE, ISSUER, TokenMaker

SILENCE, BELIEVED = 0.6, 0.15
STALE, AWAY = "401 token_stale", "503 unavailable"
PATIENCE = 5.0


class Identity:
    """Answers a snapshot and introspections, or is away; counts what it was asked."""

    def __init__(self) -> None:
        self.changes: list[AccessState] = []
        self.good = True
        self.away = False
        self.slow = 0.0
        self.snapshots = 0
        self.inquiries = 0

    async def get(self, path: str, params: Any = None) -> Any:
        assert path == "/v1/access-versions"
        self._answer()
        self.snapshots += 1
        rows = [(place, state) for place, state in enumerate(self.changes, 1) if place > params["after"]]
        page = rows[:2]  # small, so that there are several
        return {
            "items": [state.model_dump(mode="json") for _, state in page],
            "next": page[-1][0] if len(rows) > len(page) else None,
        }

    async def post_form(self, path: str, form: Any) -> Any:
        assert path == "/v1/introspect"
        assert form["token"].count(".") == 2
        self.inquiries += 1
        await asyncio.sleep(self.slow)
        self._answer()
        return {"active": self.good}

    def _answer(self) -> None:
        if self.away:
            raise Unavailable()


class Service:
    """The verifier of a service, its bus, and the identity that it asks."""

    def __init__(self) -> None:
        self.identity = Identity()
        self.bus = LoopbackBus()
        self.maker = TokenMaker()
        self.fetched = 0
        self.revocations = Revocations(self.identity, silence_seconds=SILENCE, believed_seconds=BELIEVED)
        self.verifier = TokenVerifier(
            KeyCache(self._keys), issuer=ISSUER, audience=AUDIENCE, revocations=self.revocations
        )
        self.subject = uuid7()
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def _keys(self) -> Any:
        self.fetched += 1
        return await self.maker.jwks()

    def token(self, version: int, subject: UUID | None = None) -> str:
        return self.maker.token("partner_admin", uuid4(), subject=subject or self.subject, authz_ver=version)

    async def start(self) -> None:
        self._task = asyncio.create_task(self.revocations.listen(self.bus, "test", self._stop))
        await asyncio.sleep(0)

    async def stop(self) -> None:
        self._stop.set()
        if self._task is not None:
            await self._task

    async def well(self) -> None:
        """Wait until tokens are believed without a question."""
        async with asyncio.timeout(PATIENCE):
            while time.monotonic() > self.revocations._well_until:
                await asyncio.sleep(0.005)

    async def say(self, kind: str, data: Contract, key: str = "") -> None:
        event: Event[Any] = Event(id=uuid7(), source="/identity", type=kind, time=datetime.now(UTC), data=data)
        message = Message(str(event.id), kind, key or kind, encode(event).encode())
        assert await self.bus.publish(BILLING_EVENTS, [message]) == [True]

    async def change(self, version: int, subject: UUID | None = None) -> None:
        await self.say(ACCESS_CHANGED, changed(version, subject or self.subject))

    async def beat(self, age: float = 0.0) -> None:
        await self.say(HEARTBEAT, Heartbeat(as_of=datetime.now(UTC) - timedelta(seconds=age)), HEARTBEAT_KEY)

    async def refused(self, token: str) -> str:
        """Status and code by which a token is refused; empty when it is believed."""
        try:
            await self.verifier.verify(token)
        except Problem as problem:
            return f"{problem.status} {problem.code}"
        return ""


def changed(version: int, subject: UUID | None) -> AccessState:
    return AccessState(subject=subject, authz_version=version, not_before=int(time.time()))


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    await made.start()
    await made.well()
    yield made
    await made.stop()


async def test_a_token_that_was_believed_a_moment_ago_is_refused(service: Service) -> None:
    old = service.token(1)
    assert [await service.refused(old) for _ in range(3)] == ["", "", ""]
    await service.change(2)
    assert [await service.refused(old) for _ in range(3)] == [STALE] * 3
    assert await service.refused(service.token(1)) == STALE, "one never seen, too"
    assert await service.refused(service.token(2)) == ""
    assert await service.refused(service.token(1, uuid7())) == "", "somebody else's"
    assert service.identity.inquiries == 0


async def test_order_and_repetition_do_not_matter(service: Service) -> None:
    for version in (5, 3, 5, 4, 1, 5):
        await service.change(version)
    assert [await service.refused(service.token(version)) for version in (3, 4, 5, 6)] == [STALE] * 2 + [""] * 2
    assert service.revocations.remembered == 1


async def test_a_token_that_came_before_its_event_is_believed_and_stays_so(service: Service) -> None:
    new = service.token(2)
    assert await service.refused(new) == ""
    await service.change(2)
    assert await service.refused(new) == ""


async def test_a_process_that_starts_knows_what_was_said_before() -> None:
    service = Service()
    others = [uuid7() for _ in range(4)]
    service.identity.changes = [changed(3, other) for other in others] + [changed(2, service.subject)]
    assert await service.refused(service.token(1)) == "", "identity is asked as long as nothing was heard, and says yes"
    assert service.identity.inquiries == 1
    await service.start()
    await service.well()
    assert service.identity.snapshots == 3
    assert await service.refused(service.token(1)) == STALE
    assert [await service.refused(service.token(2, other)) for other in others] == [STALE] * 4
    assert service.identity.inquiries == 1
    await service.stop()


async def test_no_heartbeat_counts_before_what_was_said_before_is_known() -> None:
    """Else whoever starts while identity's API is away would believe everybody."""
    service = Service()
    service.identity.away = True
    await service.start()
    await asyncio.sleep(0.05)
    await service.beat()
    assert await service.refused(service.token(1)) == AWAY
    service.identity.away = False
    await service.well()
    await asyncio.sleep(0.6)  # past the pause after a failure
    assert await service.refused(service.token(2)) == ""
    await service.stop()


async def test_after_an_interruption_what_was_missed_is_asked_for(service: Service) -> None:
    old = service.token(1)
    assert await service.refused(old) == ""
    await service.stop()
    service.identity.changes = [changed(2, service.subject)]
    service._stop = asyncio.Event()
    await service.start()
    async with asyncio.timeout(PATIENCE):
        while not await service.refused(old):
            await asyncio.sleep(0.005)
    assert service.identity.inquiries == 0


async def test_in_silence_identity_is_asked_about_each_token_once_at_a_time(service: Service) -> None:
    token = service.token(1)
    await asyncio.sleep(SILENCE + 0.1)
    service.identity.slow = 0.05
    assert await asyncio.gather(*(service.refused(token) for _ in range(100))) == [""] * 100
    assert service.identity.inquiries == 1
    await service.refused(service.token(1, uuid7()))
    assert service.identity.inquiries == 2
    service.identity.good = False
    await asyncio.sleep(BELIEVED + 0.05)
    assert await asyncio.gather(*(service.refused(token) for _ in range(100))) == [STALE] * 100
    assert service.identity.inquiries == 3
    await service.beat()
    service.identity.good = True
    assert await service.refused(service.token(1)) == ""
    assert service.identity.inquiries == 3, "who hears again does not ask"


async def test_silence_and_identity_away_is_refusal(service: Service) -> None:
    token = service.token(1)
    assert await service.refused(token) == ""
    service.identity.away = True
    assert await service.refused(token) == "", "as long as news is fresh nobody needs to be asked"
    await asyncio.sleep(SILENCE + 0.05)
    refusals = [await service.refused(token) for _ in range(1000)]
    assert set(refusals) == {AWAY}
    assert service.identity.inquiries <= 5, "who is in trouble is not asked by everybody"
    service.identity.away = False
    async with asyncio.timeout(PATIENCE):
        while await service.refused(token):
            await asyncio.sleep(0.02)


@pytest.mark.measured
async def test_an_identity_that_does_not_answer_is_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "_INQUIRY_SECONDS", 0.1)
    await asyncio.sleep(SILENCE + 0.05)
    service.identity.slow = 60
    began = time.monotonic()
    assert await service.refused(service.token(1)) == AWAY
    assert time.monotonic() - began < 0.5


async def test_after_the_bound_no_stale_token_passes_in_ten_thousand_trials(service: Service) -> None:
    """The news is lost. All the time tokens are used; after the bound not one passes."""
    old, changed_at, late = service.token(1), time.monotonic(), 0
    service.identity.good = False
    bound = changed_at + SILENCE + BELIEVED
    trials = 0
    while trials < 10_000:
        at = time.monotonic()
        passed = not await service.refused(old)
        if at > bound:
            trials += 1
            late += passed
        elif passed:
            await asyncio.sleep(0.01)
        if trials % 1000 == 999:
            await asyncio.sleep(0.05)  # so that answers grow old
    assert late == 0


async def test_an_old_heartbeat_tells_how_things_were(service: Service) -> None:
    """One that waited in a frozen broker says nothing of now; a clock that is ahead does not make it younger."""
    await asyncio.sleep(SILENCE + 0.05)
    await service.beat(age=SILENCE)
    assert await service.refused(service.token(1)) == ""
    assert service.identity.inquiries == 1
    await service.beat(age=-3600)
    assert await service.refused(service.token(1)) == ""
    assert service.identity.inquiries == 1
    await asyncio.sleep(SILENCE + 0.05)
    await service.refused(service.token(1))
    assert service.identity.inquiries == 2


@pytest.mark.parametrize(("kind", "key"), [(ACCESS_CHANGED, ACCESS_CHANGED), (HEARTBEAT, HEARTBEAT_KEY)])
async def test_news_that_cannot_be_read_is_asked_for(service: Service, kind: str, key: str) -> None:
    service.identity.changes = [changed(2, service.subject)]
    assert await service.bus.publish(BILLING_EVENTS, [Message("m", kind, key, b'{"data": 1}')]) == [True]
    async with asyncio.timeout(PATIENCE):
        while not await service.refused(service.token(1)):
            await asyncio.sleep(0.005)


async def test_everybodys_tokens_are_verified_again_when_a_key_is_withdrawn(service: Service) -> None:
    token = service.token(1)
    assert await service.refused(token) == ""
    service.maker = TokenMaker()
    assert await service.refused(token) == "", "the keys are read every half minute"
    await service.say(ACCESS_CHANGED, changed(0, None))
    with pytest.raises(Unauthenticated):
        await service.verifier.verify(token)
    assert service.fetched == 2
    assert await service.refused(service.token(1)) == ""


async def test_nobody_is_remembered_longer_than_a_token_lives(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.monotonic
    for _ in range(500):
        await service.change(2, uuid7())
    await service.change(3)
    assert service.revocations.remembered == 501
    advance: Callable[[], float] = lambda: clock() + 3_700  # noqa: E731
    monkeypatch.setattr(revocation.time, "monotonic", advance)
    await service.change(4)
    assert service.revocations.remembered == 1
    assert await service.refused(service.token(3)) == STALE
