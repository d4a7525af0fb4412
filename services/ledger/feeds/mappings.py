"""What a company's feeds mean by their words: the clinics, payers and procedures that they call by other names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.ledger.domain.feed_acts import EmrDocument
from services.ledger.domain.later_acts import EmrTotals
from services.ledger.feeds.cloudevents import EmrEvent, envelope, understand
from shared.db import acquire, reading

KINDS: Final = ("clinic", "payer", "procedure", "payee")
_NOW = "select kind, alias, target, changed_by, changed_at from feed_mapping_now where company_id = $1 order by 1, 2"
_CHANGE = """
insert into feed_mapping (company_id, kind, alias, target, changed_by)
select $1, coalesce(w.kind, n.kind), coalesce(w.alias, n.alias), w.target, $3
from unnest($2::text[], $4::text[], $5::text[]) as w (kind, alias, target)
full join (select * from feed_mapping_now where company_id = $1) n on (n.kind, n.alias) = (w.kind, w.alias)
where w.target is distinct from n.target
"""


@dataclass(frozen=True, slots=True)
class Mappings:
    """One company's mappings, as they are used."""

    clinics: Mapping[str, UUID]
    payers: Mapping[str, UUID]
    """By name or id, in capitals."""
    procedures: Mapping[str, str]

    def payer(self, names: Sequence[str]) -> UUID | None:
        """The payer that one of these names or ids was mapped to; the first that was decides."""
        found = (self.payers.get(name.upper()) for name in names)
        return next((payer_id for payer_id in found if payer_id), None)

    def event(self, event: EmrEvent) -> EmrEvent:
        """The event as this company means it."""
        if self.procedures and event.type.startswith("emr.charge."):
            again = reread(event.raw, self.procedures)
            event = event if again.document == event.document else again
        location_id = self.clinics.get(event.clinic or "")
        if location_id is None or not isinstance(event.document, EmrDocument | EmrTotals):
            return event
        return replace(event, document=replace(event.document, location_id=location_id))


def reread(raw: str, procedures: Mapping[str, str] | None = None) -> EmrEvent:
    """The event of its stored form."""
    return understand(envelope(json.loads(raw)), procedures=procedures)


async def read(pool: asyncpg.Pool, company_id: UUID) -> Mappings:
    """The mappings that hold now."""
    found: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
    for row in await pool.fetch(_NOW, company_id):
        found[row["kind"]][row["alias"]] = row["target"]
    return Mappings(
        clinics={alias: UUID(target) for alias, target in found["clinic"].items()},
        payers={alias.upper(): UUID(target) for alias, target in found["payer"].items()},
        procedures=found["procedure"],
    )


async def read_rows(pool: asyncpg.Pool, company_id: UUID) -> list[dict[str, Any]]:
    """The same with who set each one, and when."""
    async with reading(pool, company_id) as connection:
        return [dict(row) for row in await connection.fetch(_NOW, company_id)]


async def replace_all(
    pool: asyncpg.Pool, company_id: UUID, user_id: UUID, wanted: Sequence[tuple[str, str, str]]
) -> None:
    """These mappings hold from now on, and no others. Only differences are written; the history keeps what was."""
    kinds, aliases, targets = ([row[place] for row in wanted] for place in range(3))
    async with acquire(pool) as connection, connection.transaction():
        await connection.execute("select from company_book where company_id = $1 for update", company_id)
        await connection.execute(_CHANGE, company_id, kinds, user_id, aliases, targets)
