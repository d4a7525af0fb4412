"""Taking HL7 messages in: check, decide the answer, keep both and commit; only then is anything posted.

The answer of a message is decided once. The same message again is given it again and posts nothing; another message
under the same control id is a conflict, which a person sees. One that is not for us (AR) leaves no trace.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import structlog

from services.ledger.feeds import hl7_store
from services.ledger.feeds.agreements import Agreements
from services.ledger.feeds.hl7.ack import CONDITIONS, acknowledge, acknowledge_batch
from services.ledger.feeds.hl7.acts import paid_cents
from services.ledger.feeds.hl7.batch import batches
from services.ledger.feeds.hl7.dft import header_of, understand
from services.ledger.feeds.hl7.model import Financial, Header, Problem, Profile
from services.ledger.feeds.hl7.reader import PADDING, Segment, Unreadable, content_of, header_line, read
from services.ledger.feeds.hl7_store import Arrival, Counted
from services.ledger.feeds.intake import Feed
from services.ledger.service import Ledger
from shared.errors import Unavailable
from shared.ids import NO_COMPANY

_LONG: Final = 1 << 18
"""Longer messages are read outside the event loop."""
_LONG_KEY: Final = 300
_TRIES: Final = 5
_RAW_CHARS: Final = 1 << 20
_UNKNOWN: Final = Problem("unknown_sender", "MSH", 1, 3, "The sending application and facility are not known here")
_CONFLICT: Final = Problem("conflict", "MSH", 1, 10, "The control id was used before for another message")
log = structlog.get_logger("hl7")


@dataclass(frozen=True, slots=True)
class Origin:
    """How a message came: over which channel, for which company if that is known, and into which feed."""

    channel: str
    open: Callable[[UUID, str], Awaitable[Feed]]
    """The feed of a company and source."""
    company_id: UUID | None = None
    """Of the caller, whose token says who he is; None: to be told from the sender's names, as MLLP has nothing else."""


@dataclass(frozen=True, slots=True)
class Examined:
    """A message as far as it could be read."""

    msh: Segment | None
    financial: Financial
    problems: tuple[Problem, ...]
    lines: tuple[str, ...] = ()
    """Its FT1 segments as sent."""


async def examine(raw: bytes, profile: Profile, faults: Sequence[Problem] = ()) -> Examined:
    """Read and check by what is agreed; raises nothing."""
    if len(raw) > _LONG:
        return await asyncio.to_thread(examined_now, raw, profile, faults)
    return examined_now(raw, profile, faults)


def examined_now(raw: bytes, profile: Profile, faults: Sequence[Problem] = ()) -> Examined:
    """The same, at once."""
    try:
        message = read(raw)
    except Unreadable as error:
        msh = error.msh or _header(raw)
        return Examined(msh, Financial(header_of(msh) if msh else Header()), (*faults, error.problem))
    financial = understand(message, profile)
    lines = tuple([one.syntax.field.join(one.fields) for one in message.segments if one.name == "FT1"])
    return Examined(message.msh, financial, (*faults, *financial.problems), lines)


def _header(raw: bytes) -> Segment | None:
    """MSH alone, of a message that is broken further on."""
    try:
        body = raw.strip(PADDING).removeprefix(b"\xef\xbb\xbf").lstrip(PADDING)
        return header_line(body) if body.startswith(b"MSH") else None
    except Unreadable:
        return None


async def receive_file(ledger: Ledger, content: bytes, origin: Origin) -> bytes:
    """A file of one message or several, in batches or bare; several are answered as a batch.
    Raises Unreadable when there is nothing of HL7 in it."""
    found = await asyncio.to_thread(batches, content)
    if not any(one.header or _header(message) for one in found for message in (*one.messages, b"")):
        raise Unreadable("segment_sequence", "There is no message in the file")
    if len(found) == 1 and found[0].header is None and len(found[0].messages) == 1:
        return await receive(ledger, found[0].messages[0], origin, found[0].faults)
    answers = []
    for batch in found:
        given = [await receive(ledger, message, origin, batch.faults) for message in batch.messages]
        answers.append(acknowledge_batch(batch.header, given, control_id=_new_id(), now=datetime.now(UTC)))
    return b"".join(answers)


async def receive(ledger: Ledger, raw: bytes, origin: Origin, faults: Sequence[Problem] = ()) -> bytes:
    """The answer to one message, which is then committed and, if it was accepted, waits to be posted.
    Raises what the database raises: then there is no answer, and the sender sends again."""
    msh = _header(raw)
    header = header_of(msh) if msh else Header()
    companies = await _companies(ledger, header, origin)
    if not companies:
        return _answer(msh, (_UNKNOWN,))
    source = f"{header.sending_application}|{header.sending_facility}"
    company_id, examined = await _route(ledger, raw, source, companies, faults)
    if any(CONDITIONS[problem.code].rejects for problem in examined.problems):
        return _answer(examined.msh, examined.problems)
    content_hash = hashlib.sha256(content_of(raw)).digest()
    arrival = Arrival(source, _key(header), content_hash, raw, origin.channel)
    feed = await origin.open(company_id, source)
    for _ in range(_TRIES):
        ack = await _decide(ledger, feed, arrival, examined)
        if ack is not None:
            return ack
    raise Unavailable("The message is being received by others")


async def _decide(ledger: Ledger, feed: Feed, arrival: Arrival, examined: Examined) -> bytes | None:
    """The answer, kept with the message; None when the same key came in meanwhile."""
    rows = await hl7_store.known(ledger.pool, feed.company_id, arrival.key, arrival.body_hash)
    same = next((row for row in rows if row["body_hash"] == arrival.body_hash), None)
    other = any(row["state"] != "refused" for row in rows if row is not same)
    problems = (*examined.problems, *((_CONFLICT,) if other else ()))
    # What was refused is taken when it is faultless now: its batch was mended, or something else was agreed.
    if same is not None and (problems or same["state"] != "refused"):
        await hl7_store.count(
            ledger.pool, feed, arrival, Counted("duplicate", "same_message", amounts_of(examined.financial))
        )
        ack: bytes = same["ack"]
        return ack
    ack = _answer(examined.msh, problems)
    state, counted = "received", None
    if problems:
        state, counted = "refused", _refused(arrival, examined, problems, "conflict" if other else "hl7_refused")
    elif examined.financial.ignored:
        state, counted = "done", Counted("ignored", "no_money", [0])
    if not await hl7_store.keep(ledger.pool, feed, arrival, ack, state, counted):
        return None
    log.info("hl7_message", company_id=str(feed.company_id), state=state, lines=examined.financial.lines)
    return ack


async def _companies(ledger: Ledger, header: Header, origin: Origin) -> set[UUID]:
    """For whom the sender may write. Whoever is unknown is asked of identity once."""
    if origin.company_id:
        return {origin.company_id}
    names = header.sending_application, header.sending_facility
    found = await hl7_store.companies_of(ledger.pool, *names)
    if not found:
        await ledger.learn(set())
        found = await hl7_store.companies_of(ledger.pool, *names)
    return found


async def _route(
    ledger: Ledger, raw: bytes, source: str, companies: set[UUID], faults: Sequence[Problem]
) -> tuple[UUID, Examined]:
    """The company of a message, by its clinic where its sender writes for several."""
    found: dict[UUID, Examined] = {}
    for company_id in sorted(companies):
        agreed = Agreements(ledger, company_id)
        examined = await examine(raw, await agreed.profile(source), faults)
        if len(companies) == 1:
            return company_id, examined
        if await agreed.names(examined.financial.clinic):
            found[company_id] = examined
    if len(found) == 1:
        return found.popitem()
    return NO_COMPANY, await examine(raw, Profile(), faults)


def _key(header: Header) -> str:
    key = f"{header.sending_application}|{header.sending_facility}|{header.control_id}"
    return key if len(key) <= _LONG_KEY else f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def _answer(msh: Segment | None, problems: Sequence[Problem]) -> bytes:
    return acknowledge(msh, problems, control_id=_new_id(), now=datetime.now(UTC))


def _new_id() -> str:
    """MSH-10 of an answer; up to version 2.6 it has at most 20 characters."""
    return uuid4().hex[:20]


def amounts_of(financial: Financial) -> list[int]:
    """The money of each line, of a message that need not be faultless: then all of it is the first line's."""
    found = [paid_cents(one) for one in financial.transactions]
    return found or [financial.stated_cents, *[0] * (financial.lines - 1)]


def _refused(arrival: Arrival, examined: Examined, problems: Sequence[Problem], reason: str) -> Counted:
    text = text_of(arrival.raw, examined)
    return Counted("quarantined", reason, amounts_of(examined.financial), refusal(problems), text)


def text_of(raw: bytes, examined: Examined) -> str:
    """A message as it is kept with its exception."""
    encoding = examined.msh.syntax.encoding if examined.msh else "utf-8"
    return raw.decode(encoding, "replace").replace("\0", "\ufffd")[:_RAW_CHARS]


def refusal(problems: Sequence[Problem]) -> dict[str, Any]:
    """What a person is told of a message that was refused: the same that its sender was told."""
    errors = [
        {"field": f"{one.segment}[{one.sequence}]" + (f"-{one.field}" if one.field else ""), "code": one.code}
        for one in problems[:50]
    ]
    return {"message": problems[0].message, "errors": errors}
