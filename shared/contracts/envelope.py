"""The envelope of every event: CloudEvents 1.0 attribute names around typed data, as one JSON text.

The same text is stored in the event log, published by the relay and served by `/v1/events`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class Contract(BaseModel):
    """Base of event data: what a newer publisher added is ignored, what we know is checked."""

    model_config = ConfigDict(extra="ignore", frozen=True)


Data = TypeVar("Data", bound=Contract)


class Event(Contract, Generic[Data]):
    """`id` identifies the event for ever; `subject` is the company it concerns, if any."""

    specversion: str = "1.0"
    id: UUID
    source: str
    type: str
    time: datetime
    subject: str | None = None
    correlationid: str | None = None
    datacontenttype: str = "application/json"
    data: Data


def encode(event: Event[Any]) -> str:
    return event.model_dump_json(exclude_none=True)
