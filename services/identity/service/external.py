"""Signing in with an external provider: it says who somebody is, and he has to be a user already.

The state that OAuth keeps in a cookie is a sealed ticket in the page that began: an answer of the provider that is
brought by another browser is worth nothing, because that browser has no such ticket (RFC 9700 section 4.7).
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg

from services.identity.domain import User
from services.identity.oidc import SECONDS, External, Provider, ProviderRefused
from services.identity.sealing import SealBroken, ticket_bytes, ticket_text
from services.identity.service.acts import own_act
from services.identity.service.issuing import OAuthError, SessionIssuer, Tokens, opening
from services.identity.store import factors as store
from services.identity.store import users
from shared.access.policy import OPERATOR
from shared.db import Connection, acquire
from shared.errors import NotFound

_PURPOSE: Final = "oidc"
_FEDERATED: Final = ("fed",)
_FEDERATED_MFA: Final = ("fed", "mfa")


class OidcStart(NamedTuple):
    authorization_url: str
    handle: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the browser brings back from the provider."""

    handle: str
    state: str
    code: str
    issuer: str | None


def _refused() -> OAuthError:
    """One answer for everything: also for a person who is no user here."""
    return OAuthError("invalid_grant", "The identity provider's answer does not sign anybody in here")


class ExternalSignIn:
    """`provider` None: switched off, and then there is no such thing."""

    def __init__(self, pool: asyncpg.Pool, provider: Provider | None, issuing: SessionIssuer) -> None:
        self._pool = pool
        self._provider = provider
        self._issuing = issuing

    async def start(self) -> OidcStart:
        """Raises NotFound when switched off, Unavailable and ProviderRefused (as 503) for the provider."""
        if self._provider is None:
            raise NotFound()
        try:
            begun = await self._provider.start()
        except ProviderRefused:
            raise _refused() from None
        facts = {"state": begun.state, "nonce": begun.nonce, "verifier": begun.verifier}
        return OidcStart(begun.authorization_url, ticket_text(self._issuing.sealer.ticket(_PURPOSE, SECONDS, facts)))

    async def finish(self, answer: Answer, company: str | None, *, replaced: str | None = None) -> Tokens:
        """Raises OAuthError, NotFound, Unavailable."""
        if self._provider is None:
            raise NotFound()
        try:
            ticket = ticket_bytes(answer.handle)
            facts = self._issuing.sealer.ticket_facts(_PURPOSE, ticket)
        except SealBroken:
            raise _refused() from None
        same_state = secrets.compare_digest(facts["state"].encode(), answer.state.encode())
        if not same_state or answer.issuer not in (None, self._provider.issuer):
            raise _refused()
        async with acquire(self._pool) as connection:
            digest, until = hashlib.sha256(ticket).digest(), datetime.fromtimestamp(facts["until"], UTC)
            if not await store.use_ticket(connection, digest, until):
                raise _refused()
        try:
            who = await self._provider.finish(answer.code, facts["nonce"], facts["verifier"])
        except ProviderRefused:
            await self._note_failure()
            raise _refused() from None
        async with opening(self._pool, replaced) as connection:
            user = await self._known_user(connection, who)
            if user is not None:
                has_factor = (await store.factors(connection, user.id)).any
                methods = _FEDERATED_MFA if who.mfa else _FEDERATED
                return await self._issuing.open(
                    connection, user, company, methods, has_factor=has_factor, since=who.proved_at, replaced=replaced
                )
        await self._note_failure()
        raise _refused()

    async def _known_user(self, connection: Connection, who: External) -> User | None:
        """The user that the provider's subject is linked to; else the only active one with the verified address, who
        is linked by that. Nobody is made, nothing is granted, and the operator signs in by password."""
        issuer = self._provider.issuer if self._provider else ""
        user_id: UUID | None = await store.linked_user(connection, issuer, who.subject)
        linked = user_id is not None
        if user_id is None and who.email is not None:
            found = await store.users_with_email(connection, who.email)
            user_id = found[0] if len(found) == 1 else None
        locked = await users.user_for_share(connection, user_id) if user_id else None
        if locked is None or not locked[0].active or locked[0].role == OPERATOR:
            return None
        user = locked[0]
        if not linked:
            if not await store.link(connection, issuer, who.subject, user.id):
                return None
            await own_act(connection, user, "external_login_linked")
        return user

    async def _note_failure(self) -> None:
        async with acquire(self._pool) as connection:
            await own_act(connection, None, "sign_in_failed", methods=_FEDERATED)
