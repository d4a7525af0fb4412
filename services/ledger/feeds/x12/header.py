"""What precedes the first claim of an 835 while it is being read. `close` makes it the header everybody else sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from services.ledger.feeds.x12.envelope import fields
from services.ledger.feeds.x12.model import Envelope, Header, Party, Reference
from services.ledger.feeds.x12.reader import X12Unreadable
from services.ledger.feeds.x12.values import cents, day

_REFERENCES_KEPT = 20


@dataclass(slots=True)
class OpenParty:
    """An N1 loop."""

    name: str
    qualifier: str
    identifier: str
    references: list[Reference] = field(default_factory=list)

    def close(self) -> Party:
        """The party."""
        return Party(self.name, self.qualifier, self.identifier, tuple(self.references))


_NOBODY = OpenParty("", "", "")


@dataclass(slots=True)
class OpenHeader:
    """BPR, TRN and the two N1 loops. Of what a payer repeats the first counts."""

    ordinal: int
    envelope: Envelope
    amount_cents: int | None = None
    is_debit: bool = False
    handling: str = ""
    method_code: str = ""
    effective_date: date | None = None
    trace_number: str = ""
    originator: str = ""
    production_date: date | None = None
    parties: dict[str, OpenParty] = field(default_factory=dict)
    party: OpenParty | None = None

    def bpr(self, segment: list[str]) -> None:
        """BPR: without its amount the transaction says nothing that could even be kept for a person."""
        handling, text, sign, method, *_, effective = (text.strip() for text in fields(segment, 16))
        try:
            amount = cents(text)
        except ValueError:
            text = ""
        if not text:
            raise X12Unreadable(f"BPR02 of transaction {self.ordinal} is not an amount")
        self.is_debit = sign == "D"
        self.amount_cents = -amount if self.is_debit else amount
        self.handling, self.method_code, self.effective_date = handling, method, day(effective)

    def trn(self, segment: list[str]) -> None:
        """TRN: what reassociates the payment with the money."""
        if not self.trace_number:
            _, self.trace_number, self.originator = (text.strip() for text in fields(segment, 3))

    def dtm(self, segment: list[str]) -> None:
        """DTM*405: when the 835 was made."""
        qualifier, text = fields(segment, 2)
        if qualifier == "405":
            self.production_date = day(text.strip())

    def n1(self, segment: list[str]) -> bool:
        """N1: PR payer, PE payee. False when the transaction already has another one: two have been run together."""
        entity, name, qualifier, identifier = (text.strip() for text in fields(segment, 4))
        self.party = OpenParty(name, qualifier, identifier)
        if entity not in ("PR", "PE"):
            return True
        known = self.parties.setdefault(entity, self.party)
        return (known.name, known.qualifier, known.identifier) == (name, qualifier, identifier)

    def ref(self, segment: list[str]) -> None:
        """REF inside an N1 loop; those before it name the receiver and the payer's software."""
        qualifier, value = (text.strip() for text in fields(segment, 2))
        if self.party and value and len(self.party.references) < _REFERENCES_KEPT:
            self.party.references.append((qualifier, value))

    def close(self) -> Header:
        """The header."""
        return Header(
            ordinal=self.ordinal,
            envelope=self.envelope,
            handling=self.handling,
            amount_cents=self.amount_cents or 0,
            is_debit=self.is_debit,
            method_code=self.method_code,
            effective_date=self.effective_date,
            trace_number=self.trace_number,
            originator=self.originator,
            production_date=self.production_date,
            payer=self.parties.get("PR", _NOBODY).close(),
            payee=self.parties.get("PE", _NOBODY).close(),
        )
