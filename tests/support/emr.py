"""An EMR of a company, and what it sends as CloudEvents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import orjson

from services.ledger.feeds.consumer import EmrConsumer
from shared.access.policy import EMR_CLIENT
from shared.bus import Message, Outcome
from tests.support.ledger import COUNTS, Company, clinic_of, patient_body

BATCH = "application/cloudevents-batch+json"
HOSTILE: list[tuple[str, Any]] = [
    ("a lone surrogate", "\ud800"),
    ("NUL", "\x00"),
    ("a number over 64 bits", 2**80),
    ("nested lists", json.loads("[" * 300 + "]" * 300)),
    ("many names", {str(n): n for n in range(5_000)}),
]


@dataclass(slots=True)
class Emr:
    """A registered EMR of a company."""

    company: Company
    source: str
    client: str

    @classmethod
    async def of(cls, company: Company) -> Emr:
        source = f"https://emr.example/{uuid4()}"
        return cls(company, source, await company.stack.emr_client([company], source))

    @property
    def token(self) -> str:
        return self.company.token(EMR_CLIENT, client_id=self.client)

    def event(self, kind: str, data: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return emr_event(self.source, kind, data, **more)

    def payment(self, payment_id: str = "p-1", version: int = 1, **fields: Any) -> dict[str, Any]:
        data = emr_payment(self.company.locations[0], payment_id, version, **fields)
        return self.event("payment", data, change="posted" if version == 1 else "changed")

    def charge(self, charge_id: str = "c-1", version: int = 1, **fields: Any) -> dict[str, Any]:
        data = emr_charge(self.company.locations[0], charge_id, version, **fields)
        return self.event("charge", data, change="posted" if version == 1 else "changed")

    def deletion(self, kind: str, document_id: str, version: int) -> dict[str, Any]:
        return self.event(kind, emr_deletion(self.company.locations[0], kind, document_id, version), change="deleted")

    async def send(self, *events: Any, status: int = 200, **headers: str) -> Any:
        """As a batch; one alone as a single event, unless the content type says otherwise. Answers the feed."""
        many = len(events) != 1 or headers.get("Content-Type") == BATCH
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

    async def deliver(self, *events: Any, consumer: EmrConsumer | None = None) -> list[Outcome]:
        """Over the bus, as one batch of messages."""
        consumer = consumer or EmrConsumer(self.company.stack.ledger)
        return list(await consumer.handle([message(event) for event in events]))


def emr_event(
    source: str, kind: str, data: Mapping[str, Any], *, change: str = "posted", event_id: str = ""
) -> dict[str, Any]:
    """A structured CloudEvent as an EMR sends it."""
    return {
        "specversion": "1.0",
        "id": event_id or f"event-{uuid4()}",
        "source": source,
        "type": f"emr.{kind}.{change}.v1",
        "time": datetime.now(UTC).isoformat(),
        "datacontenttype": "application/json",
        "data": dict(data),
    }


def emr_payment(location_id: UUID, payment_id: str, version: int = 1, **fields: Any) -> dict[str, Any]:
    """Data of `emr.payment.posted.v1`."""
    return {
        "emr_clinic_id": clinic_of(location_id),
        "payment_id": payment_id,
        "payment_version": version,
        "patient": patient_body("EMR-1"),
        "amount_cents": 2_500,
        "method": "credit_card",
        "transaction_date": "2026-01-06",
        "payment_type": "copay",
        **fields,
    }


def emr_charge(location_id: UUID, charge_id: str, version: int = 1, **fields: Any) -> dict[str, Any]:
    """Data of `emr.charge.posted.v1`."""
    return {
        "emr_clinic_id": clinic_of(location_id),
        "charge_id": charge_id,
        "charge_version": version,
        "patient": patient_body("EMR-1"),
        "date_of_service": "2026-01-05",
        "procedure_code": "97110",
        "units": 2,
        "amount_cents": 12_000,
        "diagnosis_codes": ["M54.5"],
        **fields,
    }


def emr_deletion(location_id: UUID, kind: str, document_id: str, version: int) -> dict[str, Any]:
    """Data of `emr.<kind>.deleted.v1`."""
    return {"emr_clinic_id": clinic_of(location_id), f"{kind}_id": document_id, f"{kind}_version": version}


def message(event: Mapping[str, Any], *, binary: bool = False) -> Message:
    """An event as an EMR publishes it: structured, or with its attributes as headers."""
    if not binary:
        return Message(event["id"], event["type"], event["type"], json.dumps(event).encode(), {}, "application/json")
    headers = {f"ce-{name}": str(event[name]) for name in ("specversion", "id", "source", "type", "time")}
    return Message(event["id"], event["type"], event["type"], orjson.dumps(event["data"]), headers)


def changed(event: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The event under another id, with another value at a place in its data."""
    *parents, name = path.split(".")
    data = json.loads(json.dumps(event["data"]))
    target = data
    for parent in parents:
        target = target[parent]
    target[name] = value
    return {**event, "id": str(uuid4()), "data": data}
