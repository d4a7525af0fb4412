"""What an EMR says it sent against what stands in the books: per clinic, day and type, and where the EMR lists its
payments, down to the payment. A difference is explained by a fact that accounts for it, or it is broken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from typing import Final
from uuid import UUID

from services.ledger.domain.emr_facts import Cell, Document, Figures, Held, Listed, Name, Report

INTERNAL: Final = "internal"
STATUSES: Final = ("balanced", "explained", "unreported", "broken")
"""From the best to the worst: the worst row is the whole's."""


@dataclass(slots=True)
class Explanation:
    reason: str
    figures: Figures = field(default_factory=Figures)
    exception_ids: list[UUID] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Difference:
    """One payment on which the two do not agree. `figures` is the EMR's side less the ledger's."""

    kind: str
    payment_id: str
    reason: str
    explained: bool
    figures: Figures
    listed: Listed | None
    document: Document | None
    exception_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Row:
    cell: Cell
    reports: Sequence[Report]
    emr: Figures | None
    ledger: Figures
    status: str
    explained: Sequence[Explanation] = ()
    listed: Figures | None = None
    differences: Sequence[Difference] | None = None


class Reconciliation:
    """Everything that is known about some days. `wanted` says which cells were asked for."""

    def __init__(
        self,
        reports: Iterable[Report],
        documents: Iterable[Document],
        held: Mapping[Name, Held],
        wanted: Callable[[Cell], bool],
    ) -> None:
        self._wanted = wanted
        self._days: dict[tuple[str, UUID, date], list[Report]] = defaultdict(list)
        self._listed: dict[Name, Listed] = {}
        for report in reports:
            self._days[report.source, report.location_id, report.day].append(report)
            for payment_id, listed in (report.payments or {}).items():
                self._listed[report.source, payment_id] = listed
        self._documents = {(one.source, one.external_id): one for one in documents}
        self._standing: dict[Cell, dict[str, int]] = defaultdict(dict)
        for document in self._documents.values():
            if (stands := document.cell()) and wanted(stands[0]):
                self._standing[stands[0]][document.external_id] = stands[1]
        self._held = held

    def rows(self) -> list[Row]:
        """Every cell that either side knows, by day."""
        cells = set(self._standing)
        for day, reports in self._days.items():
            for report in reports:
                types = {listed.payment_type for listed in (report.payments or {}).values()}
                types |= {name for name, total in report.totals.items() if total}
                cells |= {cell for one in types if self._wanted(cell := (*day, one))}
        return [self._row(cell) for cell in sorted(cells, key=lambda cell: (cell[2], str(cell[1]), *cell[::3]))]

    def _row(self, cell: Cell) -> Row:
        standing = self._standing.get(cell, {})
        ledger = Figures(len(standing), sum(standing.values()))
        reports = self._days.get(cell[:3], [])
        if not reports:
            return Row(cell, (), None, ledger, "unreported")
        emr = sum((report.totals.get(cell[3], Figures()) for report in reports), Figures())
        lists = [report.payments for report in reports if report.payments is not None]
        if len(lists) == len(reports):
            mine = {one: it for listed in lists for one, it in listed.items() if it.payment_type == cell[3]}
            return self._by_payment(cell, reports, emr, ledger, mine)
        explained = self._by_totals(cell, reports, emr, ledger) if emr != ledger else []
        left = sum((one.figures for one in explained), ledger) - emr
        status = "broken" if left else "explained" if explained else "balanced"
        return Row(cell, reports, emr, ledger, status, explained)

    # -- by totals ---------------------------------------------------------------------------------------------

    def _by_totals(self, cell: Cell, reports: Sequence[Report], emr: Figures, ledger: Figures) -> list[Explanation]:
        found = []
        if cell[3] == INTERNAL and not ledger:
            found.append(Explanation("internal_payment", emr))
        quarantined = Explanation("quarantined")
        for name, held in self._held.items():
            if effect := self._effect(cell, name, held):
                quarantined.figures += effect
                quarantined.exception_ids.append(held.exception_id)
        if quarantined.exception_ids:
            found.append(quarantined)
        sent = self._sent(cell)
        if moved := sent - ledger:
            found.append(Explanation("moved_in_ledger", moved))
        # What reached us after the report may have been on its way when it was made, and be in it. So it explains
        # only what is otherwise left, to the cent.
        left = emr - ledger - sum((one.figures for one in found), Figures())
        later = self._sent(cell, max(report.reported_at for report in reports)) - sent
        if left and left == later:
            found.append(Explanation("changed_after_report", later))
        return found

    def _effect(self, cell: Cell, name: Name, held: Held) -> Figures:
        """What an event of the quarantine changes in what the EMR has put into a cell."""
        document = self._documents.get(name)
        if document is not None and document.version >= held.version:
            return Figures()
        effect = Figures(1, held.amount_cents) if held.cell == cell and held.amount_cents else Figures()
        sent = document.sent() if document else None
        return effect - Figures(1, sent[1]) if sent and sent[0] == cell else effect

    def _sent(self, cell: Cell, at: datetime | None = None) -> Figures:
        """What the EMR has put into a cell, as far as it reached us; or had, at a moment."""
        found = [sent[1] for one in self._documents.values() if (sent := one.sent(at)) and sent[0] == cell]
        return Figures(len(found), sum(found))

    # -- by payment --------------------------------------------------------------------------------------------

    def _by_payment(
        self, cell: Cell, reports: Sequence[Report], emr: Figures, ledger: Figures, listed: Mapping[str, Listed]
    ) -> Row:
        differences = list(self._differences(cell, reports, listed))
        whole = Figures(len(listed), sum(one.amount_cents for one in listed.values()))
        by_reason: dict[str, Explanation] = {}
        for one in differences:
            if one.explained:
                explanation = by_reason.setdefault(one.reason, Explanation(one.reason))
                explanation.figures += one.figures
                explanation.exception_ids += [one.exception_id] if one.exception_id else []
        # A list that does not add up to its own total proves nothing.
        broken = whole != emr or not all(one.explained for one in differences)
        status = "broken" if broken else "explained" if differences else "balanced"
        return Row(cell, reports, emr, ledger, status, list(by_reason.values()), whole, differences)

    def _differences(self, cell: Cell, reports: Sequence[Report], listed: Mapping[str, Listed]) -> Iterator[Difference]:
        standing = self._standing.get(cell, {})
        for payment_id, one in sorted(listed.items()):
            if payment_id not in standing:
                figures = Figures(1, one.amount_cents)
                yield self._difference("missing_in_ledger", cell, payment_id, one, figures, _why_absent)
            elif standing[payment_id] != one.amount_cents:
                figures = Figures(0, one.amount_cents - standing[payment_id])
                yield self._difference("amount_differs", cell, payment_id, one, figures, _why_other)
        why = partial(_why_extra, max(report.reported_at for report in reports))
        for payment_id, cents in sorted(standing.items()):
            if payment_id not in listed:
                elsewhere = self._listed.get((cell[0], payment_id))
                yield self._difference("missing_in_emr", cell, payment_id, elsewhere, Figures(-1, -cents), why)

    def _difference(
        self,
        kind: str,
        cell: Cell,
        payment_id: str,
        listed: Listed | None,
        figures: Figures,
        why: Callable[[Listed | None, Document | None], tuple[str, bool]],
    ) -> Difference:
        name = cell[0], payment_id
        document, held = self._documents.get(name), self._held.get(name)
        if held is not None and (document is None or held.version > document.version):
            return Difference(kind, payment_id, "quarantined", True, figures, listed, document, held.exception_id)
        return Difference(kind, payment_id, *why(listed, document), figures, listed, document)


def _why_absent(listed: Listed | None, document: Document | None) -> tuple[str, bool]:
    """Why the ledger does not have a payment where the EMR lists it, and whether that is as it should be."""
    if listed is not None and listed.payment_type == INTERNAL:
        return "internal_payment", True
    if listed is not None and listed.amount_cents == 0:
        return "zero_amount", True
    return _why_other(listed, document)


def _why_extra(reported_at: datetime, listed: Listed | None, document: Document | None) -> tuple[str, bool]:
    """Why the ledger has a payment that the EMR does not list there; `listed` is where it lists it instead."""
    if listed is not None:
        return _why_other(listed, document)
    if document is not None and document.moved:
        return "moved_in_ledger", True
    late = document is not None and document.states[-1].at > reported_at
    return ("changed_after_report", True) if late else ("not_listed", False)


def _why_other(listed: Listed | None, document: Document | None) -> tuple[str, bool]:
    """By the versions on both sides: the newer one is right, and a list may be older than the books but not newer. Of
    the same version the list says what the event did, unless a person has moved the payment, with all its money.
    A version that is a time says nothing about the number in a list."""
    if listed is None or document is None:
        return "never_received", False
    if document.numbered and document.version < listed.version:
        return "newer_in_emr", False
    if document.deleted:
        return "deleted", True
    if document.numbered and document.version > listed.version:
        return "later_version", True
    stands = document.cell()
    moved = document.moved and stands is not None and stands[1] == listed.amount_cents
    return ("moved_in_ledger", True) if moved else ("listed_differently", False)


def worst(rows: Iterable[Row]) -> str:
    """The status of the whole."""
    return max((row.status for row in rows), key=STATUSES.index, default=STATUSES[0])
