"""What a remittance says, as the books take it: its key, its faults, its receipt."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import uuid5

from services.ledger.domain.feed_acts import PostRemittance, ProviderLevel
from services.ledger.domain.feed_items import FeedItem
from services.ledger.feeds import payees
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.mappings import Mappings
from services.ledger.feeds.payees import Payees
from services.ledger.feeds.remittance_claims import CODE, NAME, NUMBER
from services.ledger.feeds.x12.model import Header, Transaction
from shared.money import MAX_CENTS


def payment_key(transaction: Transaction, payee: str = "") -> str:
    """Who paid what by which trace number, when and to whom (feeds.md 0.6). Who, that is TRN03 before any other number:
    a clearinghouse leaves it alone, since the bank has it too (CAQH CORE 370), and rewrites N104. Payers repeat trace
    numbers on zero pays (RFI 1847), so there the content tells them apart. `payee`: another name for him."""
    header = transaction.header
    if header is None:
        raise ValueError("not a remittance")
    parts = [
        header.originator or next(iter(header.payer_ids), header.payer.name),
        header.trace_number,
        str(header.amount_cents),
        str(header.deposit_date),
        payee or header.payee.identifier or header.payee_tax_id,
    ]
    if header.amount_cents == 0:
        parts.append(transaction.content_hash)
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _twin_keys(transaction: Transaction, ours: Payees) -> frozenset[str]:
    """Its key under what else the payee may be called: his tax id where he is named by NPI, else any NPI of the
    company. A payer who goes by tax id and a clearinghouse that puts the NPI in its place tell of one check twice."""
    header = transaction.header
    names = (header.payee_tax_id,) if header and header.payee_npis else ours.npis
    return frozenset(payment_key(transaction, name) for name in names if name)


def refusal_of(transaction: Transaction, ours: Payees) -> str | None:
    """Why a whole transaction must not post, in the codes of api.md."""
    header = transaction.header
    if transaction.reason or header is None:
        return transaction.reason
    if _unusable(header):
        return "envelope_mismatch"
    return ours.refusal(transaction)


def _unusable(header: Header) -> list[str]:
    """What keeps a receipt from being made of a header that is not damaged, in sentences for a person."""
    found = []
    if not header.trace_number:
        found.append("TRN02, the number of the check or transfer, is missing")
    elif len(header.trace_number) > NUMBER:
        found.append(f"TRN02 is longer than {NUMBER} characters")
    if header.deposit_date is None:
        found.append("There is no payment date: neither BPR16 nor DTM*405 is one")
    if abs(header.amount_cents) > MAX_CENTS:
        found.append("BPR02 is more than the ledger can hold")
    return found


def refusal_detail(transaction: Transaction, reason: str) -> dict[str, Any]:
    header = transaction.header
    problems: list[dict[str, Any]] = [
        {"code": p.code, "detail": p.detail, **dict(p.numbers)} for p in transaction.problems
    ]
    if reason in (payees.WRONG, payees.UNKNOWN):
        problems.append(payees.problem(transaction, reason))
    elif not problems and header:
        problems = [{"code": reason, "detail": detail} for detail in _unusable(header)]
    return {
        "transaction": transaction.ordinal,
        "trace_number": header.trace_number[:NUMBER] if header else None,
        "bpr02_cents": header.amount_cents if header else None,
        "clp04_sum_cents": transaction.paid_cents,
        "plb_sum_cents": transaction.provider_cents,
        "claims": transaction.claims,
        "problems": problems,
    }


def receipt_of(feed: Feed, transaction: Transaction, known: Mappings, ours: Payees) -> PostRemittance:
    """The receipt, as yet without claims."""
    header = transaction.header
    if header is None or header.deposit_date is None:
        raise ValueError("refused before")
    payer_name = (header.payer.name or header.originator or "Unnamed payer")[:NAME]
    payer_ids = tuple(one[:NUMBER] for one in header.payer_ids)
    return PostRemittance(
        payment_key=payment_key(transaction),
        content_hash=bytes.fromhex(transaction.content_hash),
        method=header.method,
        amount_cents=header.amount_cents,
        deposit_date=header.deposit_date,
        check_number=header.trace_number,
        payer_name=payer_name,
        payer_ids=payer_ids,
        payer_id=known.payer((*payer_ids, payer_name)),
        feed_id=feed.feed_id,
        item_key=item_of(feed, transaction).item_key,
        provider_level=tuple(ProviderLevel(row.reason[:CODE] or "PLB", row.cents) for row in transaction.provider),
        twins=_twin_keys(transaction, ours),
        numbers=refusal_detail(transaction, "conflict"),
    )


def item_of(feed: Feed, transaction: Transaction) -> FeedItem:
    """Named by its place in the file, so that processing the same feed again counts it once."""
    header = transaction.header
    return FeedItem(
        feed_id=feed.feed_id,
        item_id=uuid5(feed.feed_id, str(transaction.ordinal)),
        item_key=f"ST {transaction.ordinal}" + (f" TRN {header.trace_number[:NUMBER]}" if header else ""),
        amount_cents=header.amount_cents if header else 0,
    )


def ordinal_of(item_key: str) -> int:
    """The place in its file that an item is named by."""
    return int(item_key.split()[1])
