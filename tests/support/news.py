"""Identity's news of rights, as a service hears them, over the bus of one process."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from shared.access.revocation import Revocations
from shared.bus import BILLING_EVENTS, Message
from shared.contracts.envelope import Event, encode
from shared.contracts.identity_events import ACCESS_CHANGED, AccessState
from shared.ids import uuid7
from shared.loopback import LoopbackBus


class _Quiet:
    """Identity when nothing has changed yet: an empty snapshot, and every token is good."""

    async def get(self, path: str, params: Any = None) -> Any:
        return {"items": [], "next": None}

    async def post_form(self, path: str, form: Any) -> Any:
        return {"active": True}


class News:
    """`revocations` is for a service's verifier, `bus` for its application."""

    def __init__(self) -> None:
        self.bus = LoopbackBus()
        self.revocations = Revocations(_Quiet(), silence_seconds=3_600)

    async def raised(self, subject: UUID, version: int) -> None:
        """Tokens of this subject with a lower version are stale from now on."""
        state = AccessState(subject=subject, authz_version=version, not_before=int(time.time()))
        event = Event(id=uuid7(), source="/identity", type=ACCESS_CHANGED, time=datetime.now(UTC), data=state)
        message = Message(str(event.id), ACCESS_CHANGED, ACCESS_CHANGED, encode(event).encode())
        assert await self.bus.publish(BILLING_EVENTS, [message]) == [True]
