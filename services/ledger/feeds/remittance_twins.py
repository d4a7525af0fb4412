"""The same payment under another name of its payee. Its key has the payee as the file calls him: a payer who goes by
tax id and a clearinghouse that puts the NPI in its place tell of one check under two keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.ledger.feeds.payees import Payees
from services.ledger.feeds.remittance_facts import payment_key, refusal_detail
from services.ledger.feeds.x12.model import Transaction

CONFLICT: Final = "conflict"
_POSTED: Final = "select payment_key from remittance where company_id = $1 and payment_key = any ($2::text[])"


async def posted_twins(
    pool: asyncpg.Pool, company_id: UUID, transactions: Iterable[Transaction], ours: Payees
) -> dict[int, dict[str, Any]]:
    """Of these transactions, by their place in the file, those that were posted under another payee and not under
    their own, or stand so before them in the file; with what a person needs to see."""
    others = {one.ordinal: (one, {payment_key(one, name) for name in _names(one, ours)}) for one in transactions}
    own = {ordinal: payment_key(one) for ordinal, (one, _) in others.items()}
    wanted = list(set(own.values()).union(*(keys for _, keys in others.values())))
    known = {row["payment_key"] for row in await pool.fetch(_POSTED, company_id, wanted)}
    message = "It was posted before, under another name of its payee"
    found: dict[int, dict[str, Any]] = {}
    for ordinal, (one, keys) in others.items():
        if own[ordinal] not in known and keys & known:
            found[ordinal] = {**refusal_detail(one, CONFLICT), "message": message}
        else:
            known.add(own[ordinal])
    return found


def _names(transaction: Transaction, ours: Payees) -> Iterable[str]:
    """What else the payee may be called: by his tax id where he is named by NPI, else by any NPI of the company."""
    header = transaction.header
    if header is None or not header.payee_npis:
        return ours.npis
    return filter(None, (header.payee_tax_id,))
