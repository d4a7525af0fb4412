"""The second reading of an 835: its claims, each when it is complete."""

from __future__ import annotations

from collections.abc import Sequence

from services.ledger.feeds.x12.claims import Loop, OpenClaim, OpenLine
from services.ledger.feeds.x12.envelope import fields
from services.ledger.feeds.x12.model import Adjustment, Envelope, Finding
from services.ledger.feeds.x12.transaction import Remittance
from services.ledger.feeds.x12.values import cents, procedure


class ClaimReader(Remittance):
    """Keeps what belongs to the open claim and its lines."""

    def __init__(
        self, ordinal: int, envelope: Envelope, st: list[str], component: str, problems: Sequence[Finding]
    ) -> None:
        super().__init__(ordinal, envelope, st, component, problems)
        self._claim: OpenClaim | None = None
        self._loop: Loop | None = None
        """Where CAS, DTM, REF, AMT and LQ belong: the last line of the open claim, before its first the claim."""
        self._handlers |= {
            "NM1": self._nm1,
            "MIA": self._mia,
            "MOA": self._moa,
            "AMT": self._amt,
            "LQ": self._lq,
        }

    def _close_claim(self) -> None:
        super()._close_claim()
        if self._claim is not None:
            self._ready.append(self._claim.close(self._claims))
            self._claim = self._loop = None

    def _open_claim(self, segment: list[str], charge_cents: int, paid_cents: int, patient_cents: int) -> None:
        self._claim = self._loop = OpenClaim(
            segment=segment, charge_cents=charge_cents, paid_cents=paid_cents, patient_cents=patient_cents
        )

    def _open_line(self, segment: list[str], charge_cents: int, paid_cents: int) -> None:
        if self._claim is None:
            return
        code, _, _, revenue, units, submitted, submitted_units = fields(segment, 7)
        self._loop = line = OpenLine(
            procedure=procedure(code, self._component),
            submitted=procedure(submitted, self._component),
            charge_cents=charge_cents,
            paid_cents=paid_cents,
            revenue_code=revenue,
            units=units,
            submitted_units=submitted_units,
        )
        self._claim.lines.append(line)

    def _adjust(self, segment: list[str], place: int, amount_cents: int) -> None:
        if self._loop is not None and (amount_cents or segment[place]):
            quantity = segment[place + 2] if place + 2 < len(segment) else ""
            row = Adjustment(segment[1].strip(), segment[place].strip(), amount_cents, quantity)
            self._loop.adjustments.append(row)

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
        else:
            super()._dtm(segment)

    def _ref(self, segment: list[str]) -> None:
        if self._loop is not None:
            self._loop.ref(segment)
        else:
            super()._ref(segment)

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
