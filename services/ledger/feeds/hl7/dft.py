"""From a message to what it asks of the books: DFT^P03 and DFT^P11 (chapter 6), all or nothing per message.

Other messages are named and passed over (BAR, acknowledgements) or refused. Nothing is guessed about money: what does
not say its kind, its amount and its day plainly is a problem, and one problem keeps the whole message from posting.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from services.ledger.feeds.hl7.model import Code, Financial, Header, Insurance, Patient, Problem, Profile, address
from services.ledger.feeds.hl7.reader import Message, Segment
from services.ledger.feeds.hl7.transaction import Transactions, check_key, coded
from services.ledger.feeds.hl7.values import day
from services.ledger.feeds.identifier_types import PERSONAL

_EVENTS = frozenset(("P03", "P11"))
_FRAGMENTS = ("DSC", "ADD")
"""Segments that say that a message goes on in the next one, or came in another (chapter 2.10.2)."""
_DEFAULT = Profile()


def header_of(msh: Segment) -> Header:
    """The facts of MSH (chapter 2.15.9)."""
    text = msh.text
    return Header(
        sending_application=text(3),
        sending_facility=text(4),
        receiving_application=text(5),
        receiving_facility=text(6),
        time=text(7),
        message_type=text(9).upper(),
        trigger=text(9, 2).upper(),
        control_id=text(10),
        processing_id=text(11).upper(),
        version=text(12),
        accept_ack=text(15).upper(),
        application_ack=text(16).upper(),
    )


def understand(message: Message, profile: Profile = _DEFAULT) -> Financial:
    """What a message comes to, by what is agreed with its sender."""
    header = header_of(message.msh)
    parts = _sort(message)
    if header.message_type == "ACK" or ("MSA" in parts.first and not parts.lines):
        return Financial(header, ignored=True)
    event = header.trigger or parts.event
    reading = _Reading(header, parts, profile)
    reading.check_header(event)
    if header.message_type == "DFT" and event in _EVENTS:
        return reading.document(grouped=event == "P11")
    return Financial(header, ignored=not reading.problems, problems=tuple(reading.problems), lines=parts.lines)


@dataclass(slots=True)
class _Group:
    """The patient's part of the message, or an FT1, with the diagnoses and the insurance that follow it."""

    start: Segment
    diagnoses: list[str] = field(default_factory=list)
    insurance: list[Insurance] = field(default_factory=list)


@dataclass(slots=True)
class _Parts:
    """The segments that matter here: the first of each name, and those that repeat."""

    first: dict[str, Segment]
    groups: list[_Group]
    """The patient's, then one for each FT1."""
    patients: int = 0

    @property
    def lines(self) -> int:
        return len(self.groups) - 1

    @property
    def event(self) -> str:
        """EVN-1: up to version 2.2, MSH-9 may be the type alone."""
        evn = self.first.get("EVN")
        return evn.text(1).upper() if evn else ""


def _sort(message: Message) -> _Parts:
    group = _Group(message.msh)
    parts = _Parts({}, [group])
    first = parts.first
    for segment in message.segments:
        name = segment.name
        if name not in first:
            first[name] = segment
        if name == "FT1":
            group = _Group(segment)
            parts.groups.append(group)
        elif name == "DG1":
            if code := coded(segment, segment.raw(3)):
                group.diagnoses.append(code)
        elif name == "IN1":
            group.insurance.append(_insurance(segment))
        elif name == "PID":
            parts.patients += 1
    return parts


@dataclass(slots=True)
class _Reading:
    """Reads one message, collecting what is wrong with it."""

    header: Header
    parts: _Parts
    profile: Profile
    problems: list[Problem] = field(default_factory=list)

    def check_header(self, event: str) -> None:
        """What makes a message unfit whatever it contains (chapter 2.9.2.2)."""
        header = self.header
        if not header.control_id:
            self._problem("missing_field", "MSH", 10, "The message has no control id")
        if header.processing_id not in self.profile.processing_ids:
            self._problem("wrong_processing_id", "MSH", 11, "Messages of this processing id are not taken here")
        if header.version and not header.version.startswith("2"):
            self._problem("unsupported_version", "MSH", 12, "This is not a version 2 of HL7")
        if header.message_type not in ("DFT", "BAR"):
            self._problem("unsupported_type", "MSH", 9, "Messages of this type are not taken here")
        elif header.message_type == "DFT" and event not in _EVENTS:
            self._problem("unsupported_event", "MSH", 9, "Of DFT, only the events P03 and P11 are taken here")
        elif header.message_type == "DFT" and not self.parts.lines:
            self._problem("segment_sequence", "FT1", None, "There is no financial transaction in the message")
        for name in _FRAGMENTS:
            if (segment := self.parts.first.get(name)) and segment.text(1):
                self._problem("segment_sequence", name, None, "Messages are taken whole, not in fragments")
        for position, value in enumerate((header.sending_application, header.sending_facility), 3):
            check_key(self.problems, value, "MSH", 1, position)
        check_key(self.problems, header.control_id, "MSH", 1, 10)

    def document(self, *, grouped: bool) -> Financial:
        """The message as a whole. `grouped`: an FT1 has its own diagnoses and insurance, superseding the patient's
        (P11); in a P03 all are the patient's, although they follow the FT1 segments."""
        header, groups, patient = self.header, self.parts.groups, self._patient()
        visit = self._key("PV1", 19)
        shared = groups[:1] if grouped else groups
        diagnoses = [code for group in shared for code in group.diagnoses]
        insurance = tuple([one for group in shared for one in group.insurance])
        sender = header.sending_application, header.sending_facility
        visited = visit or patient.visit_account or patient.account_number
        transactions = Transactions(self.profile, sender, visited, self.problems)
        found = []
        for place, group in enumerate(groups[1:], 1):
            own = grouped and group.insurance
            codes = grouped and group.diagnoses
            found.append(transactions.read(place, group.start, codes or diagnoses, tuple(own) if own else insurance))
        clinic = self._lookup(self.profile.clinic)
        legible = tuple([one for one in found if one])
        return Financial(
            header=header,
            problems=tuple(self.problems),
            lines=self.parts.lines,
            stated_cents=transactions.stated_cents,
            patient=patient,
            visit=visit,
            clinic=clinic,
            insurance=insurance,
            transactions=() if self.problems else legible,
            legible=legible if self.problems else (),
            unread=transactions.unread,
        )

    def _patient(self) -> Patient:
        pid = self.parts.first.get("PID")
        if pid is None:
            self._problem("segment_sequence", "PID", None, "There is no patient in the message")
            return Patient()
        if self.parts.patients > 1:
            self.problems.append(
                Problem("segment_sequence", "PID", 2, None, "There is more than one patient in the message")
            )
        account = self._lookup(self.profile.account)
        if not account:
            self._problem("missing_field", "PID", 18, "The patient has no account number")
        try:
            born = day(pid.text(7))
        except ValueError:
            born = None
        return Patient(
            account_number=account,
            mrn=check_key(self.problems, _mrn(pid), "PID", 1, 3),
            visit_account=self._key("PID", 18),
            family_name=pid.text(5),
            given_name=pid.text(5, 2),
            middle_name=pid.text(5, 3),
            birth_date=born,
        )

    def _problem(self, code: Code, segment: str, position: int | None, message: str) -> None:
        self.problems.append(Problem(code, segment, 1, position, message))

    def _key(self, name: str, position: int, component: int = 1) -> str:
        segment = self.parts.first.get(name)
        if segment is None:
            return ""
        in_list = name == "PID" and position == 3 and component == 1
        value = _identifier(segment) if in_list else segment.text(position, component)
        return check_key(self.problems, value, name, 1, position)

    def _lookup(self, places: Iterable[str]) -> str:
        """The first of the profile's places that is valued."""
        return next((value for place in places if (value := self._key(*address(place)))), "")


def _mrn(pid: Segment) -> str:
    """PID-3 is a list of identifiers: the one of type MR (CX.5, table 0203), else the first that the clinic gave."""
    part = pid.syntax.part
    return next((part(raw) for raw in pid.repetitions(3) if part(raw, 5) == "MR"), "") or _identifier(pid)


def _identifier(pid: Segment) -> str:
    """The first identifier of PID-3; one that a person has outside the clinic only where there is no other."""
    identifiers, part = pid.repetitions(3), pid.syntax.part
    if len(identifiers) > 1:
        identifiers = [raw for raw in identifiers if part(raw, 5) not in PERSONAL and part(raw)] or identifiers
    return part(identifiers[0]) if identifiers else ""


def _insurance(in1: Segment) -> Insurance:
    return Insurance(
        plan=in1.text(2),
        company_id=in1.text(3),
        company_name=in1.text(4),
        group_number=in1.text(8),
        policy_number=in1.text(36),
    )
