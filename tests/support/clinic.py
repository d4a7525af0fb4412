"""A company with an EMR that may write to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from shared.access.policy import EMR_CLIENT
from tests.support.ledger import Company, emr_charge, emr_deletion, emr_event, emr_payment

BATCH = "application/cloudevents-batch+json"
COUNTS = ("received", "posted", "duplicates", "ignored", "quarantined")


@dataclass(slots=True)
class Clinic:
    """A company with an EMR that may write to it."""

    company: Company
    source: str
    client: str

    @property
    def token(self) -> str:
        return self.company.token(EMR_CLIENT, client_id=self.client)

    def event(self, kind: str, data: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return emr_event(self.source, kind, data, **more)

    def payment(self, payment_id: str = "p-1", version: int = 1, **fields: Any) -> dict[str, Any]:
        change = "posted" if version == 1 else "changed"
        return self.event(
            "payment", emr_payment(self.company.locations[0], payment_id, version, **fields), change=change
        )

    def charge(self, charge_id: str = "c-1", version: int = 1, **fields: Any) -> dict[str, Any]:
        change = "posted" if version == 1 else "changed"
        return self.event("charge", emr_charge(self.company.locations[0], charge_id, version, **fields), change=change)

    def deletion(self, kind: str, document_id: str, version: int) -> dict[str, Any]:
        return self.event(kind, emr_deletion(self.company.locations[0], kind, document_id, version), change="deleted")

    async def send(self, *events: Any, status: int = 200, **headers: str) -> Any:
        """As a batch; one alone as a single event."""
        many = len(events) != 1
        headers.setdefault("Content-Type", BATCH if many else "application/cloudevents+json")
        body = json.dumps(events if many else events[0]).encode()
        answer = await self.company.upload("emr", body, token=self.token, **headers)
        assert answer.status == status, answer
        return answer.body

    async def outcome(self, *events: Any) -> dict[str, int]:
        """The counts that are not zero, without `received`."""
        feed = await self.send(*events)
        assert feed["state"] == "done"
        assert feed["received"] == len(events) == sum(feed[name] for name in COUNTS[1:])
        return {name: feed[name] for name in COUNTS[1:] if feed[name]}


async def clinic_at(company: Company) -> Clinic:
    source = f"https://emr.example/{uuid4()}"
    return Clinic(company, source, await company.stack.emr_client([company], source))


def changed(event: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, name = path.split(".")
    data = json.loads(json.dumps(event["data"]))
    target = data
    for parent in parents:
        target = target[parent]
    target[name] = value
    return {**event, "id": str(uuid4()), "data": data}


HOSTILE: list[tuple[str, Any]] = [
    ("a lone surrogate", "\ud800"),
    ("NUL", "\x00"),
    ("a number over 64 bits", 2**80),
    ("nested lists", json.loads("[" * 300 + "]" * 300)),
    ("many names", {str(n): n for n in range(5_000)}),
]
