"""ISA/GS/GE/IEA: nesting, counts and control numbers, and which transactions a fault of theirs concerns.

A missing trailer means that the file was cut, so nothing of it can be trusted; a wrong count or number in a trailer
that is there is a fault of the sender, kept for a person to judge.
"""

from __future__ import annotations

from dataclasses import replace

from services.ledger.feeds.x12.model import Envelope, EnvelopeFault, Finding
from services.ledger.feeds.x12.reader import X12Unreadable

MAX_TRANSACTIONS = 50_000
"""One ST is one payment; the largest clearinghouse files hold a few thousand."""

_ISA_WIDTHS = (2, 10, 2, 10, 2, 15, 2, 15, 6, 4, 1, 5, 9, 1, 1, 1)


def fields(segment: list[str], count: int) -> list[str]:
    """Elements 01 to `count`; X12 drops trailing empty ones, so what is not there is empty."""
    missing = count + 1 - len(segment)
    return segment[1 : count + 1] if missing <= 0 else segment[1:] + [""] * missing


def mismatch(detail: str) -> Finding:
    """A fault of counts, control numbers or unreadable content: the transaction cannot be trusted."""
    return Finding("envelope_mismatch", detail)


def trailer_findings(trailer: list[str], counted: str, count: int, opened: str, control: str) -> list[Finding]:
    """SE, GE and IEA are alike: 01 counts what they enclose, 02 repeats the control number of the opening segment."""
    name = trailer[0]
    stated, repeated = fields(trailer, 2)
    found = []
    if not (stated.isascii() and stated.isdigit() and len(stated) <= 10 and int(stated) == count):
        found.append(mismatch(f"{name}01 is {stated[:12]!r}, but there are {count} {counted}"))
    if repeated.strip() != control.strip():
        found.append(mismatch(f"{name}02 {repeated[:12]!r} differs from {opened} {control[:12]!r}"))
    return found


class EnvelopeTracker:
    """Follows the control segments of a file. Ordinals count ST segments of any set, from 1."""

    def __init__(self) -> None:
        self.ordinal = 0
        self.acknowledgements = 0
        """How many TA1 there were: each is an interchange without a transaction by design."""
        self.asks_reply = False
        """Some interchange wants to be answered (ISA14)."""
        self._interchange: Envelope | None = None
        self._group: Envelope | None = None
        self._of_remittances = False
        self._in_transaction = False
        self._shape: list[Finding] = []
        self._strays: list[Finding] = []
        self._interchange_first = self._group_first = self._groups = self._answered_before = 0

    def isa(self, segment: list[str]) -> None:
        """A new interchange. Its shape is a fault of every transaction in it."""
        self._expect_closed("ISA")
        if self._interchange is not None:
            raise X12Unreadable("An interchange is cut before IEA: ISA follows")
        self._interchange = Envelope(
            sender=segment[6].strip(), receiver=segment[8].strip(), interchange_control=segment[13].strip()
        )
        self.asks_reply = self.asks_reply or segment[14].strip() == "1"
        widths = tuple(len(element) for element in segment[1:])
        wrong = [f"ISA{i:02}" for i, (is_, be) in enumerate(zip(widths, _ISA_WIDTHS, strict=True), 1) if is_ != be]
        self._shape = [mismatch(f"ISA is not of fixed width: {', '.join(wrong)}")] if wrong else []
        self._strays = []
        self._interchange_first, self._groups = self.ordinal + 1, 0
        self._answered_before = self.acknowledgements

    def gs(self, segment: list[str]) -> None:
        """A new group."""
        self._expect_closed("GS")
        functional, sender, receiver, _, _, control, _, version = fields(segment, 8)
        self._of_remittances = functional.strip() == "HP"
        self._group = replace(
            self._interchange or Envelope(),
            group_sender=sender.strip(),
            group_receiver=receiver.strip(),
            group_control=control.strip(),
            version=version.strip(),
        )
        self._groups += 1
        self._group_first = self.ordinal + 1

    def st(self, set_id: str) -> tuple[Envelope, list[Finding]]:
        """A new transaction: its surroundings, and what is already known to be wrong with them."""
        if self._in_transaction:
            raise X12Unreadable(f"Transaction {self.ordinal} is cut before SE")
        self.ordinal += 1
        if self.ordinal > MAX_TRANSACTIONS:
            raise X12Unreadable(f"There are more than {MAX_TRANSACTIONS} transactions in one file")
        if self._of_remittances and set_id != "835":
            # GS01 HP is the 835 and nothing else: passing this over as another set would be losing a payment.
            raise X12Unreadable(f"Transaction {self.ordinal} is not an 835, but its group is one of remittances")
        self._in_transaction = True
        homeless = [] if self._group else [mismatch("ST lies outside any GS")]
        return self._group or self._interchange or Envelope(), self._shape + homeless

    def se(self) -> bool:
        """Whether this SE ends a transaction; one that does not is a stray."""
        if self._in_transaction:
            self._in_transaction = False
            return True
        self.stray("SE")
        return False

    def stray(self, name: str) -> None:
        """A segment outside every transaction. Its likely home is lost."""
        if name == "TA1":
            self.acknowledgements += 1
            if self.acknowledgements > MAX_TRANSACTIONS:
                raise X12Unreadable(f"There are more than {MAX_TRANSACTIONS} TA1 in one file")
        elif not self._in_transaction and not self._strays:
            self._strays.append(mismatch(f"{name[:3]!r} lies outside any transaction"))

    def ge(self, segment: list[str]) -> EnvelopeFault | None:
        """The end of a group."""
        self._expect_closed("GE", group=False)
        if self._group is None:
            self.stray("GE")
            return None
        count = self.ordinal + 1 - self._group_first
        found = trailer_findings(segment, "transactions", count, "GS06", self._group.group_control)
        self._group = None
        self._of_remittances = False
        if count == 0:
            self._strays += found  # there is no transaction here to blame: it may have been lost
            return None
        return EnvelopeFault(self._group_first, self.ordinal, tuple(found)) if found else None

    def iea(self, segment: list[str]) -> EnvelopeFault | None:
        """The end of an interchange."""
        self._expect_closed("IEA")
        control = self._interchange.interchange_control if self._interchange else ""
        groups = self._groups
        if not groups and self.acknowledgements > self._answered_before and fields(segment, 1)[0].strip() == "1":
            groups = 1  # that of nothing but TA1 is 0, but some senders count those as one
        found = self._strays + trailer_findings(segment, "groups", groups, "ISA13", control)
        self._interchange = None
        if found and self._interchange_first > self.ordinal:
            # Without the findings' text, which quotes the file: this one goes out in a refusal.
            raise X12Unreadable("An interchange without any transaction, and with wrong counts or control numbers")
        return EnvelopeFault(self._interchange_first, self.ordinal, tuple(found)) if found else None

    def _expect_closed(self, name: str, *, group: bool = True) -> None:
        if self._in_transaction:
            raise X12Unreadable(f"Transaction {self.ordinal} is cut before SE: {name} follows")
        if group and self._group is not None:
            raise X12Unreadable(f"A group is cut before GE: {name} follows")
