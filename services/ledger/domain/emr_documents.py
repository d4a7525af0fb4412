"""Rules of documents that stand or fall together: the lines of a claim or an invoice, and the documents it names.

The state of the whole decides about its lines: a stale one changes nothing, whatever lines it has, and of a newer one
the lines that are no longer there are taken back. So any order of the same states ends in the same books.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from services.ledger.domain import emr
from services.ledger.domain.books import Books, FeedDocument
from services.ledger.domain.commands import Command
from services.ledger.domain.document_acts import EmrDocuments, Whole, key_of
from services.ledger.domain.feed_acts import EmrDocument
from services.ledger.domain.journal import Journal
from shared.errors import Invalid, Unavailable

IN_LINES: Final = "in_lines"
"""Why the state of a whole brings nothing itself."""
_GONE: Final = b"no longer a line of its document"


class DocumentMoved(Unavailable):
    """The document has another state than when its lines were read: read them again."""

    code = "document_moved"


def emr_documents(books: Books, journal: Journal, command: Command, act: EmrDocuments) -> dict[str, Any]:
    """Answers `{outcome: posted|ignored|duplicate, reason, document_id}`; raises Invalid for what needs a person, and
    DocumentMoved."""
    first = act.wholes[0].state
    if answer := same_payment(books, first, act.same_as):
        return answer
    answers: list[dict[str, Any]] = []
    to_post: list[EmrDocument] = []
    for whole in act.wholes:
        states = list(_states(books, whole))
        # The whole first; and every check of every document before the first posting.
        checked = [emr.check(books, state) for state in states]
        if checked[0] is not None:
            answers.append(checked[0])
        elif says_the_same(books, whole.state):
            answers.append(_repeated(books, journal, whole))
        else:
            to_post += states
    answers += [emr.emr_document(books, journal, command, state) for state in to_post]
    return _together(answers)


def _states(books: Books, whole: Whole) -> Iterator[EmrDocument]:
    """The whole, its lines, and the end of every line that it had and no longer has."""
    state = whole.state
    known = books.documents.get(state.name)
    if whole.lined and whole.held_at != (known and (known.external_version, known.deleted)):
        raise DocumentMoved
    yield state
    if known is not None and (known.external_version, known.deleted) >= (state.external_version, state.deleted):
        return  # Nothing is asked of the lines of a state that is no news.
    yield from whole.lines
    for name in sorted(set(whole.held) - {line.external_id for line in whole.lines}):
        held = books.documents.get((state.source, state.kind, name))
        if held is not None and not held.deleted:
            yield EmrDocument(
                source=state.source,
                kind=state.kind,
                external_id=name,
                external_version=state.external_version,
                clinic="",
                content_hash=_GONE,
                deleted=True,
            )


def _repeated(books: Books, journal: Journal, whole: Whole) -> dict[str, Any]:
    known = books.documents[whole.state.name]
    emr.keep(books, journal, whole.state, known.document_id)
    return {"outcome": "duplicate", "reason": "same_content", "document_id": known.document_id}


def says_the_same(books: Books, state: EmrDocument) -> bool:
    """Whether a newer state differs in nothing but its version."""
    known: FeedDocument | None = books.documents.get(state.name)
    return known is not None and not (state.deleted or known.deleted) and known.content_hash == state.content_hash


def same_payment(books: Books, state: EmrDocument, names: Iterable[str]) -> dict[str, Any] | None:
    """The answer to a new payment whose money is in the books under another name: it is not posted again. Raises
    Invalid where the amounts differ: which of them was received, a person must find out, and reverses the other one."""
    own = books.documents.get(state.name)
    if state.words is None or (own is not None and own.document_id is not None):
        return None
    others = [books.documents.get((state.source, "payment", name)) for name in names]
    found = [other.document_id for other in others if other is not None and not other.deleted]
    for payment_id in (*found, books.remittances.get(key_of(state.source, state.external_id))):
        payment = books.payments[payment_id] if payment_id else None
        if payment is None or payment.words.withdrawn:
            continue
        if payment.words.amount_cents == state.words["amount_cents"]:
            return {"outcome": "ignored", "reason": "same_payment", "document_id": payment.payment_id}
        if not payment.reversed_by:
            raise Invalid("The payment is known under another name with another amount", code="conflict")
    return None


def _together(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One answer for all: posted if anything was; else what says most."""
    for outcome in ("posted", "ignored", "duplicate"):
        found = [answer for answer in answers if answer["outcome"] == outcome and answer["reason"] != IN_LINES]
        if found:
            return found[0]
    return answers[0]
