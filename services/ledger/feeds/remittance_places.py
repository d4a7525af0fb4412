"""Where a long remittance will be booked, told before its first claim is posted (D14: where all matched charges are).

A receipt with a hundred thousand applied lines cannot be moved afterwards: the move restates them all in one event.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Final
from uuid import UUID

import asyncpg

from services.ledger.domain.feed_acts import external_ids
from services.ledger.feeds.apart import items_apart
from services.ledger.feeds.remittance_claims import groups_of
from services.ledger.feeds.spooled import Chunks
from services.ledger.feeds.stored import read_ahead

_CLAIMS: Final = 500
_ALL = "select location_id from directory_location where company_id = $1 limit 2"
_CANDIDATES = """
with candidate as (
    select r.charge_id from patient p
    join charge_revision r on r.company_id = p.company_id and r.patient_id = p.patient_id
    where p.company_id = $1 and p.account_number = any ($2::text[])
    union
    select charge_id from charge where company_id = $1 and external_id = any ($3::text[])
)
select distinct now.location_id from candidate c
cross join lateral (
    select r.location_id, r.state from charge_revision r
    where r.company_id = $1 and r.charge_id = c.charge_id order by r.version desc limit 1
) now
where now.state <> 'void' limit 2
"""


async def likely_locations(
    pool: asyncpg.Pool, company_id: UUID, chunks: Chunks, wanted: Collection[int]
) -> dict[int, UUID]:
    """Of the wanted transactions, by their place in the file, those whose claims can only mean charges of one
    location. Reads the file again as far as it must."""
    if not wanted:
        return {}
    locations = [row["location_id"] for row in await pool.fetch(_ALL, company_id)]
    if len(locations) == 1:
        return dict.fromkeys(wanted, locations[0])
    found: dict[int, set[UUID]] = defaultdict(set)
    async with read_ahead(items_apart(groups_of, chunks, wanted, _CLAIMS)) as groups:
        async for ordinal, claims in groups:
            if len(found[ordinal]) < 2:
                accounts = list({claim.claim_id for claim in claims})
                names = list({name for claim in claims for name in external_ids(claim)})
                rows = await pool.fetch(_CANDIDATES, company_id, accounts, names)
                found[ordinal].update(row["location_id"] for row in rows)
            if len(found) == len(wanted) and all(len(one) > 1 for one in found.values()):
                break
    return {ordinal: next(iter(one)) for ordinal, one in found.items() if len(one) == 1}
