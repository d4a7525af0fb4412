"""What a company agreed with its senders: how their messages are read, and which of its locations they mean."""

from __future__ import annotations

from uuid import UUID

from services.ledger.feeds import hl7_store, mappings
from services.ledger.feeds.hl7.model import Profile
from services.ledger.feeds.mappings import Mappings
from services.ledger.service import Ledger


class Agreements:
    """What holds in one company for the messages or rows that are posted together: each thing is read once."""

    def __init__(self, ledger: Ledger, company_id: UUID) -> None:
        self.ledger, self.company_id = ledger, company_id
        self._profiles: dict[str, Profile] = {}
        self._mappings: Mappings | None = None
        self._locations: dict[UUID, str | None] | None = None

    async def profile(self, source: str) -> Profile:
        if source not in self._profiles:
            self._profiles[source] = await hl7_store.profile_of(self.ledger.pool, self.company_id, source)
        return self._profiles[source]

    async def mappings(self) -> Mappings:
        if self._mappings is None:
            self._mappings = await mappings.read(self.ledger.pool, self.company_id)
        return self._mappings

    async def names(self, clinic: str) -> bool:
        """Whether the company has a location that is called this."""
        return clinic in {*(await self._known()).values(), *(await self.mappings()).clinics}

    async def location(self, clinic: str) -> UUID | None:
        """The clinic's location, else the only one. What is unknown is asked of identity once."""
        mapped = (await self.mappings()).clinics.get(clinic)
        found = mapped or _location(await self._known(), clinic)
        if found is None:
            await self.ledger.learn({self.company_id})
            self._locations = None
            found = _location(await self._known(), clinic)
        return found

    async def _known(self) -> dict[UUID, str | None]:
        if self._locations is None:
            self._locations = await hl7_store.locations_of(self.ledger.pool, self.company_id)
        return self._locations


def _location(known: dict[UUID, str | None], clinic: str) -> UUID | None:
    found = [location_id for location_id, name in known.items() if clinic and name == clinic] or list(known)
    return found[0] if len(found) == 1 else None
