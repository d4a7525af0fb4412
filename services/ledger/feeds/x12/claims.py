"""A CLP loop while it is being read. `close` makes it the claim that everybody else sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from services.ledger.feeds.x12.balance import claim_findings
from services.ledger.feeds.x12.envelope import fields
from services.ledger.feeds.x12.model import Adjustment, Claim, Line, Person, Procedure, Reference
from services.ledger.feeds.x12.values import day

_NOBODY = Person()


@dataclass(slots=True)
class Loop:
    """What a claim and a line have in common."""

    dates: dict[str, date | None] = field(default_factory=dict)
    adjustments: list[Adjustment] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    amounts: list[tuple[str, int]] = field(default_factory=list)

    def dtm(self, segment: list[str]) -> None:
        """DTM: an unreadable date is no date."""
        qualifier, text = fields(segment, 2)
        self.dates.setdefault(qualifier.strip(), day(text.strip()))

    def ref(self, segment: list[str]) -> None:
        """REF: an empty number refers to nothing."""
        qualifier, value = fields(segment, 2)
        if value := value.strip():
            self.references.append((qualifier.strip(), value))


@dataclass(slots=True, kw_only=True)
class OpenLine(Loop):
    """An SVC loop."""

    procedure: Procedure | None
    submitted: Procedure | None
    charge_cents: int
    paid_cents: int
    revenue_code: str
    units: str
    submitted_units: str

    def close(self, ordinal: int, claim_from: date | None, claim_to: date | None) -> Line:
        """The line; dates on the claim hold for every line without its own (TR3 2110 DTM)."""
        date = self.dates.get
        return Line(
            ordinal=ordinal,
            procedure=self.procedure,
            submitted=self.submitted,
            charge_cents=self.charge_cents,
            paid_cents=self.paid_cents,
            revenue_code=self.revenue_code,
            units=self.units or "1",
            submitted_units=self.submitted_units or self.units or "1",
            service_from=date("472") or date("150") or date("151") or claim_from,
            service_to=date("472") or date("151") or date("150") or claim_to,
            adjustments=tuple(self.adjustments),
            remarks=tuple(self.remarks),
            references=tuple(self.references),
            amounts=tuple(self.amounts),
        )


@dataclass(slots=True, kw_only=True)
class OpenClaim(Loop):
    """A CLP loop with its SVC loops."""

    segment: list[str]
    charge_cents: int
    paid_cents: int
    patient_cents: int
    people: dict[str, Person] = field(default_factory=dict)
    lines: list[OpenLine] = field(default_factory=list)

    def nm1(self, segment: list[str]) -> None:
        """NM1: QC patient, IL subscriber, 74 corrected patient or subscriber, 82 rendering provider."""
        entity, _, last, first, middle, _, _, qualifier, identifier = (text.strip() for text in fields(segment, 9))
        self.people.setdefault(entity, Person(last, first, middle, qualifier, identifier))

    def close(self, ordinal: int) -> Claim:
        """The claim, balanced or with what is wrong with it."""
        account, status, _, _, _, filing, icn, facility, frequency = (t.strip() for t in fields(self.segment, 9))
        date = self.dates.get
        service_from = date("232") or date("472") or date("233")
        service_to = date("233") or date("472") or date("232")
        lines = tuple(line.close(number, service_from, service_to) for number, line in enumerate(self.lines, 1))
        adjustments = tuple(self.adjustments)
        return Claim(
            ordinal=ordinal,
            account=account,
            status=status,
            charge_cents=self.charge_cents,
            paid_cents=self.paid_cents,
            patient_cents=self.patient_cents,
            filing=filing,
            icn=icn,
            facility=facility,
            frequency=frequency,
            patient=self.people.get("QC", _NOBODY),
            subscriber=self.people.get("IL"),
            corrected=self.people.get("74"),
            rendering=self.people.get("82"),
            service_from=service_from,
            service_to=service_to,
            received=date("050"),
            adjustments=adjustments,
            lines=lines,
            remarks=tuple(self.remarks),
            references=tuple(self.references),
            amounts=tuple(self.amounts),
            problems=claim_findings(self.charge_cents, self.paid_cents, adjustments, lines),
        )
