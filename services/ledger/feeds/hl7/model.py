"""What a DFT message (HL7 v2, chapter 6) says, as plain data; what is agreed with its sender; what is wrong with it.

Money is integer cents. Problems are data, with the place in the message and a sentence that quotes nothing of it.
"""

from __future__ import annotations

import re
from datetime import date
from functools import lru_cache
from typing import Final, Literal

from shared.records import record

Code = Literal[
    "segment_sequence",
    "missing_field",
    "missing_amount",
    "bad_syntax",
    "bad_amount",
    "bad_quantity",
    "bad_date",
    "bad_currency",
    "unknown_charset",
    "unknown_kind",
    "void_not_agreed",
    "too_long",
    "batch_mismatch",
    "unsupported_type",
    "unsupported_event",
    "wrong_processing_id",
    "unsupported_version",
    "unknown_sender",
    "unknown_key",
    "duplicate_key",
    "conflict",
    "internal",
]
"""The last five are for whoever posts; here only `duplicate_key` is found. `ack` maps them all to table 0357."""

Kind = Literal["CG", "CD", "PY", "AJ", "CO"]
PAYMENTS: Final = ("PY", "CO")
"""FT1-6, table 0017: charge, credit, payment, adjustment, co-payment."""

Void = Literal["cd_same_id", "negative_quantity", "replacement"]

_ADDRESS = re.compile(r"([A-Z][A-Z0-9]{2})-([1-9][0-9]?)(?:\.([1-9][0-9]?))?")


@record
class Problem:
    """One fault, placed as ERR-2 places it: segment, which of its kind (from 1), field."""

    code: Code
    segment: str
    sequence: int
    field: int | None
    message: str


@record
class Profile:
    """What is agreed with one source: HL7 leaves these open, and senders differ (feeds.md 1.1)."""

    voids: frozenset[Void] = frozenset({"cd_same_id", "negative_quantity"})
    """How a charge is taken back: CD with the same FT1-2; CG with a negative quantity or amount; the same line sent
    again with other content. The first two cannot be mistaken for anything else, so both are understood unless a
    profile says otherwise; the third looks like a sender's mistake, so it has to be agreed."""
    account: tuple[str, ...] = ("PID-18", "PID-3")
    """Where the patient's account number is: the first of these that is valued."""
    clinic: tuple[str, ...] = ("PV1-3.4", "MSH-4")
    """Where the clinic is: PV1-3.4 is the facility, PV1-3.1 the point of care."""
    missing_amount: Literal["refuse", "fee_schedule"] = "refuse"
    """A charge without FT1-11 and FT1-12: a fault, or a charge to be priced by the fee schedule (amount None)."""
    processing_ids: frozenset[str] = frozenset({"P"})
    """MSH-11.1, table 0103. Training and debugging messages must never post."""
    adjustments: Literal["negative_reduces", "positive_reduces"] = "negative_reduces"
    """The sign of an AJ that writes something off."""
    kinds: tuple[tuple[str, Kind], ...] = ()
    """The sender's own transaction types (FT1-6) with ours: table 0017 is user-defined. They are matched as they are
    written, and before the table."""
    methods: tuple[tuple[str, str], ...] = ()
    """The sender's own payment codes (FT1-7) with their methods; others are told by the words in them."""

    def __post_init__(self) -> None:
        for text in (*self.account, *self.clinic):
            address(text)


@lru_cache(maxsize=256)
def address(text: str) -> tuple[str, int, int]:
    """`PV1-3.4` as segment, field and component. A ValueError is a mistake in a profile."""
    match = _ADDRESS.fullmatch(text)
    if not match:
        raise ValueError(f"not a place in a message: {text!r}")
    return match[1], int(match[2]), int(match[3] or 1)


@record
class Header:
    """MSH: who sends what to whom. Of composite fields the first component."""

    sending_application: str = ""
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    time: str = ""
    """MSH-7 as sent; often without a time zone."""
    message_type: str = ""
    trigger: str = ""
    control_id: str = ""
    processing_id: str = ""
    version: str = ""
    accept_ack: str = ""
    application_ack: str = ""


@record
class Patient:
    """PID. A birth date that is no date is unknown: it is no reason to lose a charge."""

    account_number: str = ""
    """From where the profile says."""
    mrn: str = ""
    """PID-3, the repetition of type MR or else the first."""
    visit_account: str = ""
    """PID-18."""
    family_name: str = ""
    given_name: str = ""
    middle_name: str = ""
    birth_date: date | None = None


@record
class Insurance:
    """IN1."""

    plan: str
    company_id: str
    company_name: str
    group_number: str
    policy_number: str


@record
class Transaction:
    """One FT1."""

    sequence: int
    """Which FT1 of the message, from 1."""
    set_id: str
    transaction_id: str
    """FT1-2; empty from some senders."""
    key: str
    """Names the line across messages of one sender: by FT1-2, else by visit, day, code, modifiers and FT1-1, and by the
    order of those that are equal in all of it. A void by FT1-2 has the key of the charge it takes back. At most 200
    characters."""
    batch: str
    kind: Kind
    void: bool
    """Takes back an earlier charge. Quantity and amount are then positive: what is taken back."""
    service_date: date
    posting_date: date | None
    code: str
    """FT1-7: of a charge its code, of anything else the sender's own payment or adjustment code."""
    procedure: str
    """Of a charge, FT1-25 or else FT1-7: senders put the CPT in either."""
    modifiers: tuple[str, ...]
    units: int
    amount_cents: int | None
    """FT1-11, or FT1-12 times FT1-10. Of an adjustment, positive always reduces what is owed. None: not stated."""
    diagnoses: tuple[str, ...]
    """FT1-19, or else the DG1 segments that apply."""
    payment_reference: str
    """FT1-30."""
    transaction_reference: str
    """FT1-31: the transaction that this one refers to."""
    insurance: tuple[Insurance, ...]
    """Its own of a P11, which supersedes the patient's; else the patient's."""
    description: str = ""
    """FT1-8, or else what FT1-7 says beside its code."""
    reference_key: str = ""
    """The key of the transaction that FT1-31 names."""


@record
class Financial:
    """What a message comes to. With any problem there are no transactions: it posts whole or not at all."""

    header: Header
    ignored: bool = False
    """A message that is understood and brings no money (BAR), or an acknowledgement."""
    problems: tuple[Problem, ...] = ()
    lines: int = 0
    """How many FT1 there were, whether or not they could be read."""
    stated_cents: int = 0
    """Sum of the payments (PY, CO) that could be read, for the totals of a refused message too."""
    patient: Patient = Patient()
    visit: str = ""
    """PV1-19."""
    clinic: str = ""
    insurance: tuple[Insurance, ...] = ()
    transactions: tuple[Transaction, ...] = ()
    legible: tuple[Transaction, ...] = ()
    """Of a message with problems, the transactions that could be read: to be shown, not posted."""
    unread: int = 0
    """How many others there are that are payments, or may be."""
