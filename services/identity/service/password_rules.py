"""Whether a password may be chosen (ASVS 5.0 6.2): neither a common nor a breached one, nor one made of words that
everybody here knows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from uuid import UUID

from services.identity.breached import BreachedPasswords
from services.identity.domain import check_password, too_easy
from services.identity.passwords import common_passwords, context_words
from services.identity.store import companies
from shared.db import Connection


class PasswordRules:
    """`breached` None: no list of breaches is kept here; the common ones are refused all the same."""

    def __init__(self, breached: BreachedPasswords | None = None) -> None:
        self._breached = breached

    async def check(self, password: str, names: Iterable[str]) -> str:
        """The password as it will be hashed; `names` are those of the user and of what is his. Raises Invalid."""
        chosen = check_password(password, names, common=common_passwords(), context=context_words())
        if self._breached is not None and await asyncio.to_thread(self._breached.__contains__, chosen):
            raise too_easy()
        return chosen

    def close(self) -> None:
        if self._breached is not None:
            self._breached.close()


async def names_around(connection: Connection, own: Iterable[str], company_ids: Iterable[UUID]) -> Sequence[str]:
    """A user's own names, with the names and codes of companies."""
    known = (await companies.companies(connection, tuple(company_ids))).values()
    return [*own, *(text for company in known for text in (company.name, company.code))]
