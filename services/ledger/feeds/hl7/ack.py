"""Acknowledgements (chapter 2.9): what to answer to a message, in the sender's own separators and character set.

Original mode answers AA, AE or AR. Enhanced mode (MSH-15 or MSH-16 valued) answers CA, CE or CR where MSH-15 asks for
an accept acknowledgement, else AA, AE or AR where MSH-16 asks for one. There is never more than one answer to one
message: senders take a second one for the answer to their next message (mirth 1441).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from services.ledger.feeds.hl7.model import Code, Problem
from services.ledger.feeds.hl7.reader import Segment, Syntax

MAX_ERRORS: Final = 10
"""Further problems are in the error queue; a message can hold thousands."""


class Condition(NamedTuple):
    """An entry of table 0357, and whether it rejects (AR): the message is not for us, whatever it says."""

    code: str
    text: str
    rejects: bool = False


_SEQUENCE = Condition("100", "Segment sequence error")
_MISSING = Condition("101", "Required field missing")
_TYPE = Condition("102", "Data type error")
_TABLE = Condition("103", "Table value not found")

CONDITIONS: Final[dict[Code, Condition]] = {
    "segment_sequence": _SEQUENCE,
    "batch_mismatch": _SEQUENCE,
    "missing_field": _MISSING,
    "missing_amount": _MISSING,
    "bad_syntax": _TYPE,
    "bad_amount": _TYPE,
    "bad_quantity": _TYPE,
    "bad_date": _TYPE,
    "bad_currency": _TABLE,
    "unknown_charset": _TABLE,
    "unknown_kind": _TABLE,
    "void_not_agreed": _TABLE,
    "too_long": Condition("104", "Value too long"),
    "unsupported_type": Condition("200", "Unsupported message type", True),
    "unsupported_event": Condition("201", "Unsupported event code", True),
    "wrong_processing_id": Condition("202", "Unsupported processing id", True),
    "unsupported_version": Condition("203", "Unsupported version id", True),
    "unknown_sender": Condition("204", "Unknown key identifier", True),
    "unknown_key": Condition("204", "Unknown key identifier"),
    "duplicate_key": Condition("205", "Duplicate key identifier"),
    "conflict": Condition("205", "Duplicate key identifier"),
    "internal": Condition("207", "Application internal error"),
}

_WANTED: Final = {"AL": "AER", "NE": "", "ER": "ER", "SU": "A"}
"""Table 0155: always, never, on error, on success. What is not in the table is answered always."""


def answer_code(msh: Segment | None, problems: Sequence[Problem]) -> str:
    """MSA-1, or nothing when the sender wants no answer. An acknowledgement is never acknowledged."""
    rejected = any(CONDITIONS[problem.code].rejects for problem in problems)
    result = "R" if rejected else "E" if problems else "A"
    if msh is None:
        return f"A{result}"
    if msh.text(9).upper() == "ACK":
        return ""
    accept, application = msh.text(15).upper(), msh.text(16).upper()
    if not accept and not application:
        return f"A{result}"
    for level, wish in (("C", accept), ("A", application)):
        if wish and result in _WANTED.get(wish, "AER"):
            return f"{level}{result}"
    return ""


def acknowledge(msh: Segment | None, problems: Sequence[Problem] = (), *, control_id: str, now: datetime) -> bytes:
    """The answer to a message, from its MSH as far as that was readable; empty when none is wanted.

    `control_id` and `now` are the answer's own. The text names places and rules, never what the message says.
    """
    code = answer_code(msh, problems)
    if not code:
        return b""
    msh = msh or Segment("MSH", [], Syntax())
    syntax = msh.syntax
    event = msh.text(9, 2)
    kind = syntax.component.join(("ACK", event, "ACK")) if event else "ACK"
    version = msh.raw(12) or "2.5.1"
    own_id = syntax.escape_text(control_id)
    header = [
        *("MSH", _separators(msh)),
        *(msh.raw(5), msh.raw(6), msh.raw(3), msh.raw(4)),
        *(_time(now), "", kind, own_id, msh.raw(11) or "P", version),
        *("", "", "", "", "", msh.raw(18)),
    ]
    said = syntax.escape_text(problems[0].message) if problems else ""
    lines = [
        syntax.field.join(header).rstrip(syntax.field),
        syntax.field.join(("MSA", code, msh.raw(10), said)).rstrip(syntax.field),
    ]
    lines += [_error(problem, syntax, version) for problem in problems[:MAX_ERRORS]]
    return "".join(f"{line}\r" for line in lines).encode(syntax.encoding, "replace")


def acknowledge_batch(bhs: Segment | None, answers: Sequence[bytes], *, control_id: str, now: datetime) -> bytes:
    """The answers to the messages of a batch as one batch (chapter 2.10.3.4), which names the one it answers."""
    bhs = bhs or Segment("BHS", [], Syntax())
    syntax = bhs.syntax
    header = [
        *("BHS", _separators(bhs)),
        *(bhs.raw(5), bhs.raw(6), bhs.raw(3), bhs.raw(4)),
        *(_time(now), "", "", "", syntax.escape_text(control_id), bhs.raw(11)),
    ]
    given = [answer for answer in answers if answer]
    first = f"{syntax.field.join(header).rstrip(syntax.field)}\r".encode(syntax.encoding, "replace")
    last = f"BTS{syntax.field}{len(given)}\r".encode(syntax.encoding, "replace")
    return b"".join((first, *given, last))


def _separators(header: Segment) -> str:
    """MSH-2: the four that are used; a truncation character would promise what is not done here."""
    syntax = header.syntax
    return f"{syntax.component}{syntax.repetition}{syntax.escape}{syntax.subcomponent}"


def _time(now: datetime) -> str:
    return now.strftime("%Y%m%d%H%M%S%z")


def _error(problem: Problem, syntax: Syntax, version: str) -> str:
    """ERR: where, which condition of table 0357, a sentence. Before 2.5 all of it was one field (ELD)."""
    condition = CONDITIONS[problem.code]
    place = [problem.segment, str(problem.sequence), *([str(problem.field)] if problem.field else [])]
    if version[:3] in ("2.1", "2.2", "2.3", "2.4"):
        place += [""] * (3 - len(place))
        coded = syntax.subcomponent.join((condition.code, condition.text, "HL70357"))
        return syntax.field.join(("ERR", syntax.component.join((*place, coded))))
    coded = syntax.component.join((condition.code, condition.text, "HL70357"))
    said = syntax.escape_text(problem.message)
    return syntax.field.join(("ERR", "", syntax.component.join(place), coded, "E", problem.code, "", "", said))
