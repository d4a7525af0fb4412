"""One 835, from ST to SE: a state machine over the segments that matter to posting. The others are passed over."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from services.ledger.feeds.x12.balance import transaction_findings
from services.ledger.feeds.x12.claims import Loop, OpenClaim, OpenLine
from services.ledger.feeds.x12.envelope import fields, mismatch, trailer_findings
from services.ledger.feeds.x12.header import OpenHeader
from services.ledger.feeds.x12.model import (
    Adjustment,
    Envelope,
    Event,
    Finding,
    Header,
    ProviderAdjustment,
    Transaction,
)
from services.ledger.feeds.x12.reader import X12Unreadable
from services.ledger.feeds.x12.values import cents, day, procedure

MAX_CLAIM = 4 * 1024 * 1024
MAX_LINES = 10_000
"""A claim is held whole; the TR3 allows 999 lines, some hundred kilobytes."""

_FINDINGS_SHOWN = 20
_HASHED_AT_ONCE = 128
_HASH_ELEMENT, _HASH_COMPONENT, _HASH_SEGMENT = "\r", "\0", "\n"
"""Three characters that no element can hold once the reader is through with it."""


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
        self._claim: OpenClaim | None = None
        self._loop: Loop | None = None
        """Where CAS, DTM, REF, AMT and LQ belong: the last line of the open claim, before its first the claim."""
        self._claims = self._lines = self._items = self._paid = self._provider = 0
        self._provider_rows: list[ProviderAdjustment] = []
        self._segments = 1
        self._problems = list(problems)
        self._unlisted = self._faults = 0
        self._others = self._late_reversals = False
        self._digest = hashlib.sha256()
        self._unhashed: list[list[str]] = []
        self._claim_size = 0
        self._ready: list[Event] = []
        self._handlers = {
            "BPR": self._bpr,
            "TRN": self._trn,
            "CUR": self._cur,
            "N1": self._n1,
            "LX": self._lx,
            "CLP": self._clp,
            "CAS": self._cas,
            "NM1": self._nm1,
            "MIA": self._mia,
            "MOA": self._moa,
            "SVC": self._svc,
            "DTM": self._dtm,
            "REF": self._ref,
            "AMT": self._amt,
            "LQ": self._lq,
            "PLB": self._plb,
        }

    def take(self, segment: list[str]) -> Sequence[Event]:
        """The next segment after ST."""
        self._segments += 1
        self._unhashed.append(segment)
        if len(self._unhashed) >= _HASHED_AT_ONCE:
            self._flush()
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
        found += transaction_findings(
            self._opening.amount_cents,
            header.handling,
            header.method_code,
            self._paid,
            self._provider,
            self._items,
        )
        if self._unlisted:
            found.append(mismatch(f"and {self._unlisted} more faults of content"))
        self._flush()
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
                content_hash=self._digest.hexdigest(),
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
        return self._header

    def _close_claim(self) -> None:
        if self._claim is not None:
            claim = self._claim.close(self._claims)
            self._late_reversals = self._late_reversals or (claim.is_reversal and self._others)
            self._others = self._others or not claim.is_reversal
            self._ready.append(claim)
            self._claim = self._loop = None

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

    def _flush(self) -> None:
        # Empty elements at the end of a segment may as well be left out.
        terse = [_HASH_ELEMENT.join(segment).rstrip(_HASH_ELEMENT) for segment in self._unhashed]
        text = _HASH_SEGMENT.join((*terse, ""))
        self._digest.update(text.replace(self._component, _HASH_COMPONENT).encode())
        self._claim_size += len(text)
        if self._claim is None:
            self._claim_size = 0
        elif self._claim_size > MAX_CLAIM:
            raise X12Unreadable(f"A claim of transaction {self._ordinal} is larger than {MAX_CLAIM} bytes")
        self._unhashed.clear()

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
        self._claim_size = 0
        patient = self._cents(segment, 5)
        self._claim = self._loop = OpenClaim(
            segment=segment, charge_cents=charge, paid_cents=paid, patient_cents=patient
        )

    def _svc(self, segment: list[str]) -> None:
        if self._claim is None:
            self._fault("SVC outside a claim")
            return
        if len(self._claim.lines) >= MAX_LINES:
            raise X12Unreadable(f"A claim of transaction {self._ordinal} has more than {MAX_LINES} lines")
        self._lines += 1
        code, _, _, revenue, units, submitted, submitted_units = fields(segment, 7)
        self._loop = line = OpenLine(
            procedure=procedure(code, self._component),
            submitted=procedure(submitted, self._component),
            charge_cents=self._cents(segment, 2),
            paid_cents=self._cents(segment, 3),
            revenue_code=revenue,
            units=units,
            submitted_units=submitted_units,
        )
        self._claim.lines.append(line)

    def _cas(self, segment: list[str]) -> None:
        if self._loop is None:
            self._fault("CAS outside a claim")
            return
        size, group = len(segment), fields(segment, 1)[0].strip()
        for i in range(2, size, 3):  # six triplets, 02/03/04 to 17/18/19: keep every one (openemr 6269)
            amount = self._cents(segment, i + 1)
            if amount or segment[i]:
                quantity = segment[i + 2] if i + 2 < size else ""
                self._loop.adjustments.append(Adjustment(group, segment[i].strip(), amount, quantity))

    def _nm1(self, segment: list[str]) -> None:
        if self._claim is not None:
            self._claim.nm1(segment)

    def _mia(self, segment: list[str]) -> None:
        self._remark(fields(segment, 23), (4, 19, 20, 21, 22))

    def _moa(self, segment: list[str]) -> None:
        self._remark(fields(segment, 7), (2, 3, 4, 5, 6))

    def _remark(self, elements: list[str], places: Sequence[int]) -> None:
        if self._claim is not None:
            self._claim.remarks += [code for i in places if (code := elements[i].strip())]

    def _dtm(self, segment: list[str]) -> None:
        if self._loop is not None:
            self._loop.dtm(segment)
        elif self._header is None:
            self._opening.dtm(segment)

    def _ref(self, segment: list[str]) -> None:
        if self._loop is not None:
            self._loop.ref(segment)
        elif self._header is None:
            self._opening.ref(segment)

    def _amt(self, segment: list[str]) -> None:
        if self._loop is not None:
            qualifier, text = fields(segment, 2)
            try:
                self._loop.amounts.append((qualifier, cents(text)))
            except ValueError:
                return  # it is information, and never balances

    def _lq(self, segment: list[str]) -> None:
        qualifier, code = fields(segment, 2)
        if self._loop is not None and qualifier.strip() == "HE" and code.strip():
            self._loop.remarks.append(code.strip())

    def _plb(self, segment: list[str]) -> None:
        self._close_claim()
        self._announce()
        provider, fiscal = fields(segment, 2)
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
