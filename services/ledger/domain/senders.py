"""Whose payments the books and the quarantine hold, in the words of whoever reports totals: which sender, which place.

An EMR reports under one of the names that it is registered by. Documents have names of their own in each format, so
that no sender can take another's (docs/feeds.md); here both come together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final
from uuid import UUID

from services.ledger.domain.emr_facts import Held, Name, Report, Unplaced, Waits

_HL7, _FHIR, _CSV = "hl7", "fhir", "csv"
OWN: Final = "client "
"""Before the client in the source of FHIR resources that name none."""


@dataclass(slots=True)
class Senders:
    """The registered senders of a company."""

    clients: Mapping[str, Sequence[str]]
    """The sources of each client."""
    _reporters: dict[str, str] = field(default_factory=dict)
    _names: dict[Name, Name] = field(default_factory=dict)
    _taken: set[Name] = field(default_factory=set)

    def reported_as(self, source: str) -> str:
        """Under which source the sender of a document reports: the first of its names that is registered, else the
        only one that is. A sender that nobody registered stands for himself."""
        if source not in self._reporters:
            self._reporters[source] = self._reported_as(source)
        return self._reporters[source]

    def _reported_as(self, source: str) -> str:
        registered = {one for sources in self.clients.values() for one in sources}
        format, _, rest = source.partition(":")
        if source in registered or format not in (_HL7, _FHIR, _CSV):
            return source
        if format == _HL7:
            known_by = [rest, *rest.split("|", 1)]
        elif format == _FHIR and rest.startswith(OWN):
            own = self.clients.get(rest.removeprefix(OWN), ())
            known_by = list(own) if len(own) == 1 else []
        else:
            known_by = [rest]
        found = next((one for one in known_by if one in registered), None)
        return found or (registered.pop() if len(registered) == 1 else source)

    def name(self, source: str, external_id: str) -> Name:
        """What a list calls a payment. Where two documents would be called the same, as one payment that was sent in
        two formats, the second bears its own source too: it is in the books twice, and is not to be lost here."""
        own = source, external_id
        if own not in self._names:
            told = self.reported_as(source), external_id
            if told in self._taken:
                told = told[0], f"{source} {external_id}"
            self._names[own] = told
            self._taken.add(told)
        return self._names[own]


@dataclass(frozen=True, slots=True)
class Places:
    """Where clinics are: as reports call them, as the directory does, or by a mapping."""

    reported: Mapping[tuple[str, str], UUID]
    """By source and clinic."""
    clinics: Mapping[str, UUID]
    only: UUID | None
    """The company's location, if it has but one."""

    @classmethod
    def of(cls, reports: Iterable[Report], clinics: Mapping[str, UUID], locations: Sequence[UUID]) -> Places:
        reported = {(one.source, one.clinic): one.location_id for one in reports}
        return cls(reported, clinics, locations[0] if len(locations) == 1 else None)

    def location(self, source: str, waits: Waits) -> UUID | None:
        places = (self.reported.get((source, one)) or self.clinics.get(one) for one in waits.clinics)
        found = next((location_id for location_id in places if location_id), None)
        return found or (self.only if waits.at_only_location else None)


def placed(
    waiting: Iterable[Waits], senders: Senders, places: Places, first: date, last: date, location_id: UUID | None
) -> tuple[dict[Name, Held], list[Unplaced]]:
    """The newest state of each payment that waits; and what might be of these days and this location, but cannot be
    told to be."""
    held: dict[Name, Held] = {}
    unplaced: list[Unplaced] = []
    for one in waiting:
        source = senders.reported_as(one.source) if one.source else ""
        name = senders.name(one.source, one.external_id)
        place = places.location(source, one)
        if unknown := _unknown(one, place):
            elsewhere = (one.day and not first <= one.day <= last) or (place and location_id not in (None, place))
            if not elsewhere:
                unplaced.append(Unplaced(one, source, place, unknown))
        elif name not in held or held[name].version < one.version:
            cell = None if one.deleted or not (place and one.day) else (source, place, one.day, one.payment_type)
            held[name] = Held(one.exception_id, one.version, cell, one.amount_cents or 0)
    return held, unplaced


def _unknown(one: Waits, location_id: UUID | None) -> tuple[str, ...]:
    """What would have to be known to say which difference it explains."""
    known = {"source": bool(one.source), "emr_payment_id": bool(one.external_id)}
    if not one.deleted:
        known |= {"emr_clinic_id": location_id is not None, "date": one.day is not None}
        known |= {"payment_type": bool(one.payment_type), "amount_cents": one.amount_cents is not None}
    return tuple(name for name, told in known.items() if not told)
