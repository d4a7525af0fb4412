"""Whose money is it? Every NPI that a remittance names must be the company's. Where it names none, its payee is known
by who rendered all of its claims, or by what a person has agreed that it is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.ledger.feeds.x12.model import Transaction

WRONG: Final = "wrong_payee"
"""It names an NPI of somebody else."""
UNKNOWN: Final = "unknown_payee"
"""It names none, and the payee goes by nothing that is known here."""
_FIELD: Final = "N1*PE"
_NPI: Final = re.compile(r"[12][0-9]{9}")
_SHOWN: Final = 20
_READ = """
select d.npis, array(select alias from feed_mapping_now where company_id = $1 and kind = 'payee') as aliases,
    array(select target from feed_mapping_now where company_id = $1 and kind = 'payee') as targets
from directory_company d where d.company_id = $1
"""


@dataclass(frozen=True, slots=True)
class Payees:
    """What a company is paid under. One without NPIs takes whatever it is sent."""

    npis: frozenset[str]
    mapped: Mapping[str, str]
    """NPIs of the company by what payers call it, in capitals."""

    def refusal(self, transaction: Transaction) -> str | None:
        """Why it must not post."""
        if not self.npis or transaction.header is None:
            return None
        if named := named_npis(transaction):
            return None if self.npis.issuperset(named) else WRONG
        header = transaction.header
        ours = (
            self.npis.intersection(header.payee.references_of("PQ")),
            transaction.rendering and self.npis.issuperset(transaction.rendering),
            self.npis.intersection(self.mapped.get(name.upper(), "") for name in header.payee_names),
        )
        return None if any(ours) else UNKNOWN


async def read(pool: asyncpg.Pool, company_id: UUID) -> Payees:
    """What holds now, as far as identity's news have come."""
    row = await pool.fetchrow(_READ, company_id)
    if row is None:
        return Payees(frozenset(), {})
    return Payees(frozenset(row["npis"]), {a.upper(): t for a, t in zip(row["aliases"], row["targets"], strict=True)})


def named_npis(transaction: Transaction) -> tuple[str, ...]:
    """The NPIs that say who is paid: those of N1*PE, where there are none those of TS3 and PLB, which may as well hold
    numbers of the payer's own."""
    named = transaction.header.payee_npis if transaction.header else ()
    return named or tuple(filter(_NPI.fullmatch, transaction.providers))


def problem(transaction: Transaction, reason: str) -> dict[str, Any]:
    """The fault for a person, with the names that he may map, or the NPIs that are not his."""
    if reason == WRONG:
        npis = list(named_npis(transaction))[:_SHOWN]
        return {"code": reason, "field": _FIELD, "detail": "The payee's NPI is not the company's", "npis": npis}
    names = transaction.header.payee_names if transaction.header else ()
    detail = "The payee is not named by an NPI, and by nothing else that is known here"
    return {"code": reason, "field": _FIELD, "detail": detail, "names": list(names)}
