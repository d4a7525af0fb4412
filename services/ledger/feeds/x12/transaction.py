"""One 835, from ST to SE: a state machine over the segments that matter to posting. The others are passed over.

A file is read twice (`remittance.py`). Its survey adds up and judges (`survey.py`), the second reading makes the claims
(`claim_reader.py`); what both do is in `Remittance`, so they cannot come to different ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.ledger.feeds.x12.balance import transaction_findings
from services.ledger.feeds.x12.envelope import fields, mismatch, trailer_findings
from services.ledger.feeds.x12.header import OpenHeader
from services.ledger.feeds.x12.model import (
    Envelope,
    Event,
    Finding,
    Header,
    ProviderAdjustment,
    Transaction,
)
from services.ledger.feeds.x12.reader import X12Unreadable
from services.ledger.feeds.x12.values import cents, day

REVERSAL = "22"
MAX_LINES = 10_000
"""A claim is held whole; the TR3 allows 999 lines, some hundred kilobytes."""

_FINDINGS_SHOWN = 20
_PROVIDERS_KEPT = 1000
"""More than a company may have NPIs: one more is enough to tell that they are not all its own."""


class Remittance:
    """Reads the segments of one 835; `take` and `end` answer with what has become complete."""

    def __init__(
        self, ordinal: int, envelope: Envelope, st: list[str], component: str, problems: Sequence[Finding]
    ) -> None:
        self._ordinal = ordinal
        self._control = fields(st, 2)[1].strip()
        self._opening = OpenHeader(ordinal, replace(envelope, transaction_control=self._control))
        self._header: Header | None = None
        self._component = component
        self._status: str | None = None
        """CLP02 of the claim that is open."""
        self._claims = self._lines = self._claim_lines = self._items = self._paid = self._provider = 0
        self._provider_rows: list[ProviderAdjustment] = []
        self._providers: dict[str, None] = {}
        self._segments = 1
        self._problems = list(problems)
        self._unlisted = self._faults = 0
        self._others = self._late_reversals = False
        self._ready: list[Event] = []
        self._handlers = {
            "BPR": self._bpr,
            "TRN": self._trn,
            "CUR": self._cur,
            "N1": self._n1,
            "LX": self._lx,
            "CLP": self._clp,
            "CAS": self._cas,
            "SVC": self._svc,
            "DTM": self._dtm,
            "REF": self._ref,
            "PLB": self._plb,
            "TS3": self._ts3,
        }

    def take(self, segment: list[str]) -> Sequence[Event]:
        """The next segment after ST."""
        self._segments += 1
        handler = self._handlers.get(segment[0])
        if handler is None:
            return ()
        handler(segment)
        if not self._ready:
            return ()
        ready, self._ready = self._ready, []
        return ready

    def end(self, se: list[str]) -> Sequence[Event]:
        """SE: the last claim, and the transaction."""
        self._close_claim()
        header = self._announce()
        found = trailer_findings(se, "segments", self._segments + 1, "ST02", self._control)
        found += transaction_findings(header, self._opening.amount_cents, self._paid, self._provider, self._items)
        if self._unlisted:
            found.append(mismatch(f"and {self._unlisted} more faults of content"))
        self._ready.append(
            Transaction(
                ordinal=self._ordinal,
                set_id="835",
                header=header,
                claims=self._claims,
                lines=self._lines,
                paid_cents=self._paid,
                provider_cents=self._provider,
                provider=tuple(self._provider_rows),
                providers=tuple(self._providers),
                rendering=self._rendering(),
                content_hash=self._content_hash(),
                problems=(*self._problems, *found),
                faults=self._faults,
                late_reversals=self._late_reversals,
            )
        )
        return self._ready

    def _announce(self) -> Header:
        """The header ends where the claims begin, or the provider adjustments, or the transaction itself ends."""
        if self._header is None:
            self._header = self._opening.close()
            self._ready.append(self._header)
            self._announced(self._header)
        return self._header

    def _close_claim(self) -> None:
        if self._status is not None:
            reversal = self._status == REVERSAL
            self._late_reversals = self._late_reversals or (reversal and self._others)
            self._others = self._others or not reversal
            self._status = None

    def _announced(self, header: Header) -> None:
        pass

    def _content_hash(self) -> str:
        return ""

    def _rendering(self) -> tuple[str, ...]:
        return ()

    def _fault(self, detail: str) -> None:
        self._faults += 1
        if len(self._problems) < _FINDINGS_SHOWN:
            self._problems.append(mismatch(f"Segment {self._segments}: {detail}"))
        else:
            self._unlisted += 1

    def _cents(self, segment: list[str], index: int) -> int:
        """An unreadable amount counts as zero: whatever it was, the fault keeps the transaction from posting."""
        try:
            return cents(segment[index])
        except IndexError:
            return 0
        except ValueError:
            self._fault(f"{segment[0]}{index:02} {segment[index][:20]!r} is not an amount")
            return 0

    def _bpr(self, segment: list[str]) -> None:
        if self._header is None and self._opening.amount_cents is None:
            self._opening.bpr(segment)
        else:
            self._fault("a second BPR, or one after the first claim")

    def _trn(self, segment: list[str]) -> None:
        if self._header is None:
            self._opening.trn(segment)

    def _n1(self, segment: list[str]) -> None:
        if not self._opening.n1(segment):
            self._fault(f"N1*{segment[1][:2]} names a second, different party")

    def _cur(self, segment: list[str]) -> None:
        currency = fields(segment, 2)[1].strip()
        if currency not in ("", "USD"):
            self._fault(f"CUR02 is {currency[:3]!r}, and the ledger is kept in US dollars")

    def _lx(self, _: list[str]) -> None:
        self._close_claim()
        self._announce()

    def _clp(self, segment: list[str]) -> None:
        self._close_claim()
        self._announce()
        before = len(self._problems) + self._unlisted
        charge, paid = self._cents(segment, 3), self._cents(segment, 4)
        if len(self._problems) + self._unlisted > before:
            return  # without its amounts it is no claim, and what follows belongs to none
        self._claims += 1
        self._items += 1
        self._paid += paid
        self._status = fields(segment, 2)[1].strip()
        self._claim_lines = 0
        self._open_claim(segment, charge, paid, self._cents(segment, 5))

    def _open_claim(self, segment: list[str], charge_cents: int, paid_cents: int, patient_cents: int) -> None:
        pass

    def _svc(self, segment: list[str]) -> None:
        if self._status is None:
            self._fault("SVC outside a claim")
            return
        if self._claim_lines >= MAX_LINES:
            raise X12Unreadable(f"A claim of transaction {self._ordinal} has more than {MAX_LINES} lines")
        self._lines += 1
        self._claim_lines += 1
        self._open_line(segment, self._cents(segment, 2), self._cents(segment, 3))

    def _open_line(self, segment: list[str], charge_cents: int, paid_cents: int) -> None:
        pass

    def _cas(self, segment: list[str]) -> None:
        if self._status is None:
            self._fault("CAS outside a claim")
            return
        for i in range(2, len(segment), 3):  # six triplets, 02/03/04 to 17/18/19: every one counts (openemr 6269)
            self._adjust(segment, i, self._cents(segment, i + 1))

    def _adjust(self, segment: list[str], place: int, amount_cents: int) -> None:
        pass

    def _dtm(self, segment: list[str]) -> None:
        if self._header is None:
            self._opening.dtm(segment)

    def _ref(self, segment: list[str]) -> None:
        if self._header is None:
            self._opening.ref(segment)

    def _ts3(self, segment: list[str]) -> None:
        keep(self._providers, fields(segment, 1)[0].strip())

    def _plb(self, segment: list[str]) -> None:
        self._close_claim()
        self._announce()
        provider, fiscal = fields(segment, 2)
        keep(self._providers, provider.strip())
        for i in range(3, len(segment), 2):
            amount = self._cents(segment, i + 1)
            if not (amount or segment[i]):
                continue
            reason, reference = (*segment[i].split(self._component), "", "")[:2]
            self._items += 1
            self._provider += amount
            row = ProviderAdjustment(provider.strip(), day(fiscal.strip()), reason.strip(), reference.strip(), amount)
            self._provider_rows.append(row)
            self._ready.append(row)


def keep(names: dict[str, None], identifier: str) -> None:
    """Add to the names of providers, as far as they matter."""
    if len(names) <= _PROVIDERS_KEPT:
        names[identifier] = None
