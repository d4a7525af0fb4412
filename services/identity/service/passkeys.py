"""Registering passkeys and signing in with one. Challenges are sealed tickets: they expire, and each counts once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.identity.passkeys import SECONDS, BadCredential, RelyingParty, challenge_of, credential_id_of
from services.identity.sealing import SealBroken
from services.identity.service.acts import administration, own_act
from services.identity.service.issuing import PASSKEY, SessionIssuer, Tokens, opening, wrong_credentials
from services.identity.service.persons import end_other_sessions, person, strengthen
from services.identity.store import factors as store
from services.identity.store import users
from services.identity.store.factors import Passkey
from shared.access.principal import Principal
from shared.db import Connection, acquire
from shared.errors import Conflict, Invalid, NotFound
from shared.ids import uuid7

_MOST: Final = 10
_REGISTRATION: Final = "passkey registration"
_SIGN_IN: Final = "passkey sign-in"


def _refused() -> Invalid:
    return Invalid.field("credential", "wrong_credential", "This is no valid answer of an authenticator to us")


class Passkeys:
    """Of people; see `services.identity.passkeys`."""

    def __init__(self, pool: asyncpg.Pool, party: RelyingParty, issuing: SessionIssuer) -> None:
        self._pool = pool
        self._party = party
        self._issuing = issuing

    async def mine(self, caller: Principal) -> Sequence[Passkey]:
        async with acquire(self._pool) as connection:
            me = await person(connection, caller)
            return await store.passkeys(connection, me.user.id)

    async def registration_options(self, caller: Principal) -> dict[str, Any]:
        async with acquire(self._pool) as connection:
            me = await person(connection, caller)
            me.require_recent()
            known = await store.passkeys(connection, me.user.id)
        challenge = self._issuing.sealer.ticket(_REGISTRATION, SECONDS, {"user": str(me.user.id)})
        return self._party.registration_options(
            me.user.id, me.user.user_name, me.user.display_name, [key.credential_id for key in known], challenge
        )

    async def register(
        self, caller: Principal, name: str, credential: Mapping[str, Any], *, end_others: bool = False
    ) -> Passkey:
        """Raises Invalid for the credential, Conflict for the eleventh."""
        try:
            challenge = challenge_of(credential)
            facts = await self._use(_REGISTRATION, challenge)
            found = self._party.verify_registration(credential, challenge)
        except BadCredential:
            raise _refused() from None
        async with administration(self._pool, caller) as act:
            me = await person(act.connection, caller)
            me.require_recent()
            if facts["user"] != str(me.user.id):
                raise _refused()
            if me.factors.passkeys >= _MOST:
                raise Conflict(f"At most {_MOST} passkeys: remove one first", code="too_many_passkeys")
            key = Passkey(
                id=uuid7(),
                user_id=me.user.id,
                credential_id=found.credential_id,
                public_key=found.public_key,
                sign_count=found.sign_count,
                transports=found.transports,
                name=name,
                created_at=datetime.now(UTC),
            )
            if not await store.insert_passkey(act.connection, key):
                raise _refused()
            if end_others:
                await end_other_sessions(act, me)
            await strengthen(act.connection, me, PASSKEY)
            await act.audit("passkey_added", me.user.id, me.user.company_ids)
        return key

    async def remove(self, caller: Principal, key_id: UUID, *, end_others: bool = False) -> None:
        async with administration(self._pool, caller) as act:
            me = await person(act.connection, caller)
            me.require_recent()
            if not await store.remove_passkey(act.connection, me.user.id, key_id):
                raise NotFound()
            if end_others:
                await end_other_sessions(act, me)
            if not me.factors.totp and me.factors.passkeys == 1:
                await store.replace_recovery_codes(act.connection, me.user.id, [])
            await act.audit("passkey_removed", me.user.id, me.user.company_ids)

    def sign_in_options(self) -> dict[str, Any]:
        return self._party.sign_in_options(self._issuing.sealer.ticket(_SIGN_IN, SECONDS, {}))

    async def sign_in(
        self, credential: Mapping[str, Any], company: str | None, *, replaced: str | None = None
    ) -> Tokens:
        """Raises OAuthError, one for everything that can be wrong with a credential."""
        owner: UUID | None = None
        try:
            challenge, credential_id = challenge_of(credential), credential_id_of(credential)
            await self._use(_SIGN_IN, challenge)
            async with acquire(self._pool) as connection:
                key = await store.passkey(connection, credential_id)
            if key is not None:
                owner = key.user_id
                count = self._party.verify_sign_in(credential, challenge, key.public_key, key.sign_count, owner)
                async with opening(self._pool, replaced) as connection:
                    return await self._open(connection, key, count, company, replaced)
        except BadCredential:
            pass
        async with acquire(self._pool) as connection:
            user = await users.user(connection, owner) if owner else None
            await own_act(connection, user, "sign_in_failed", methods=PASSKEY)
        raise wrong_credentials()

    async def _open(
        self, connection: Connection, key: Passkey, count: int, company: str | None, replaced: str | None
    ) -> Tokens:
        locked = await users.user_for_share(connection, key.user_id)
        if locked is None or not locked[0].active or not await store.count_up(connection, key.id, count):
            raise BadCredential()
        return await self._issuing.open(connection, locked[0], company, PASSKEY, has_factor=True, replaced=replaced)

    async def _use(self, purpose: str, challenge: bytes) -> dict[str, Any]:
        """What a challenge of ours says; with that it is used up, whatever comes of it."""
        try:
            facts = self._issuing.sealer.ticket_facts(purpose, challenge)
        except SealBroken:
            raise BadCredential() from None
        async with acquire(self._pool) as connection:
            digest, until = hashlib.sha256(challenge).digest(), datetime.fromtimestamp(facts["until"], UTC)
            if not await store.use_ticket(connection, digest, until):
                raise BadCredential()
        return facts
