"""The envelope of every event: CloudEvents 1.0 attribute names around typed data, as one JSON text.

The same text is stored in the event log, published by the relay and served by `/v1/events`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, Generic, TypeVar
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


_CORRELATION: Final = re.compile(rb'"correlation_?id": ?"([^"]{1,100})"')
_MOST_IDS: Final = 100


def correlation_ids(bodies: Iterable[bytes]) -> list[str]:
    """The distinct correlation ids of encoded events and of the postings in them, for the log: the first hundred."""
    found = dict.fromkeys(one for body in bodies for one in _CORRELATION.findall(body))
    return [one.decode() for one in list(found)[:_MOST_IDS]]
