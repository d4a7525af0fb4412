"""Getting tokens (RFC 6749): by password, by refresh token, by a client's secret; and ending sessions (RFC 7009).

Refresh tokens are used once. A second use means that two parties hold the token, so the whole family ends (RFC 9700
4.14.2). Rights are read again at each refresh (U12).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from services.identity.domain import TYPED_PASSWORD, Client, User, nfkc
from services.identity.passwords import Hasher
from services.identity.service.acts import Act
from services.identity.service.throttle import Throttle
from services.identity.store import clients, companies, sessions, users
from services.identity.store.sessions import RefreshToken
from services.identity.tokens import Claims, Issuer, new_secret, secret_hash
from shared.access.policy import EMR_CLIENT, INTERNAL_CLIENT, OPERATOR
from shared.access.principal import Principal
from shared.access.tokens import TokenVerifier
from shared.db import Connection, acquire
from shared.errors import Unauthenticated

CONSOLE: Final = "console"
"""`client_id` of tokens that a person got by password: the product's own console and tools."""
_IDLE: Final = timedelta(hours=1)
_LONGEST: Final = timedelta(hours=12)
"""A session ends when nobody refreshed it for an hour (45 CFR 164.312(a)(2)(iii)), and after a working day anyway."""


class OAuthError(Exception):
    """An error answer of RFC 6749 section 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status


def _wrong_credentials() -> OAuthError:
    return OAuthError("invalid_grant", "The user name or password is not right, or the account cannot be used")


def _no_such_company() -> OAuthError:
    """D11: one answer for a company that is absent, closed or another's."""
    return OAuthError("invalid_grant", "The company is not available to this account")


def _wrong_token() -> OAuthError:
    return OAuthError("invalid_grant", "The refresh token is not valid")


def wrong_client() -> OAuthError:
    return OAuthError("invalid_client", "The client id or secret is not right", status=401)


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the token endpoint answers."""

    access_token: str
    expires_in: int
    company_id: UUID | None
    refresh_token: str | None = None
    token_type: str = "Bearer"  # noqa: S105


class SignIn:
    """Every method raises OAuthError; those that verify a password also TooManyRequests and Unavailable."""

    def __init__(self, pool: asyncpg.Pool, hasher: Hasher, issuer: Issuer, verifier: TokenVerifier) -> None:
        self._pool = pool
        self._hasher = hasher
        self._issuer = issuer
        self._verifier = verifier
        self._throttle = Throttle(pool)

    async def by_password(self, user_name: str, password: str, company: str | None, address: str) -> Tokens:
        """Unknown user, wrong password and unusable account give one answer and take as long."""
        name = nfkc(user_name).casefold().replace("\0", "")[:200]
        async with self._throttle.attempt(name, address) as attempt:
            async with acquire(self._pool) as connection:
                user, encoded = await users.user_by_name(connection, name) or (None, None)
            right = await self._right_password(encoded, password)
            if user is not None and user.active and right:
                attempt.succeeded()
        if user is None or not attempt.right:
            await self._audit(user, "sign_in_failed")
            raise _wrong_credentials()
        async with acquire(self._pool) as connection, connection.transaction():
            # Read again under a lock: a password changed this instant must not leave a session behind.
            locked = await users.user_for_share(connection, user.id)
            if locked is None or not locked[0].active or locked[1] != encoded:
                raise _wrong_credentials()
            user = locked[0]
            company_id = await _company_of(connection, user, company)
            tokens = await self._tokens(connection, user, company_id, uuid4(), datetime.now(UTC) + _LONGEST)
            await Act(connection, user.id, user.user_name).audit("sign_in", user.id, [company_id] if company_id else [])
        return tokens

    async def by_refresh_token(self, token: str, company: str | None) -> Tokens:
        """The next pair, for the same company or another of the user's. A refused company leaves the token good."""
        digest = secret_hash(token)
        async with acquire(self._pool) as connection, connection.transaction():
            user_id = await sessions.owner(connection, digest)
            # The user first and the token second, the order in which a change of password locks them.
            user, _ = (await users.user_for_share(connection, user_id) if user_id else None) or (None, None)
            known = await sessions.refresh_token_for_update(connection, digest)
            if known is None or user is None or not user.active or known.expires_at <= datetime.now(UTC):
                raise _wrong_token()
            if not known.used:
                wanted = company or (str(known.company_id) if known.company_id else None)
                company_id = await _company_of(connection, user, wanted)
                await sessions.mark_used(connection, digest)
                return await self._tokens(connection, user, company_id, known.family, known.family_expires_at)
            await sessions.end_family(connection, known.family)
        # Only now, after the commit: raised above, it would undo the end of the family.
        await self._audit(user, "refresh_token_reused")
        raise _wrong_token()

    async def by_client(self, client_id: str, secret: str, company: str | None) -> Tokens:
        async with acquire(self._pool) as connection:
            client = await _client(connection, client_id, secret)
            company_id = await _company_of_client(connection, client, company)
            claims = Claims(
                subject=client.id,
                client_id=client.client_id,
                user_name=client.name,
                user_type="client",
                role=INTERNAL_CLIENT if client.kind == "internal" else EMR_CLIENT,
                affiliation="integration",
                company_id=company_id,
                locations="*",
                authz_version=client.version,
            )
            key = await clients.active_key(connection)
        return Tokens(self._issuer.sign(key, claims), self._issuer.seconds, company_id)

    async def known_client(self, client_id: str, secret: str) -> Client:
        """The client that proves its identity."""
        async with acquire(self._pool) as connection:
            return await _client(connection, client_id, secret)

    async def revoke(self, token: str) -> None:
        """End the session that a refresh token, or an access token that came with one, belongs to. What is no token
        is no error. An access token lives on to its end, at most minutes; for one without a session that is all there
        is, and the answer says so."""
        if token.count(".") == 2:
            try:
                principal = await self._verifier.verify(token)
            except Unauthenticated:
                return
            async with acquire(self._pool) as connection:
                ended = await sessions.end_family_of_access_token(connection, UUID(principal.token_id))
            if not ended and principal.user_type == "client":
                raise OAuthError("unsupported_token_type", "A client's access tokens end by themselves")
            return
        async with acquire(self._pool) as connection, connection.transaction():
            known = await sessions.refresh_token_for_update(connection, secret_hash(token))
            if known is not None:
                await sessions.end_family(connection, known.family)

    async def inspect(self, token: str) -> Principal | None:
        """The holder of an access token that is good now: signed, not ended, session open, rights unchanged."""
        try:
            principal = await self._verifier.verify(token)
        except Unauthenticated:
            return None
        async with acquire(self._pool) as connection:
            if principal.user_type == "client":
                client = await clients.client(connection, principal.subject)
                good = client is not None and client.active and client.version == principal.authz_version
            else:
                user = await users.user(connection, principal.subject)
                good = user is not None and user.active and user.authz_version == principal.authz_version
                good = good and await sessions.session_is_open(connection, UUID(principal.token_id))
        return principal if good else None

    async def _right_password(self, encoded: str | None, password: str) -> bool:
        # What nobody can have chosen is wrong without being hashed; that says nothing of the account.
        if len(password) > TYPED_PASSWORD:
            return False
        return await self._hasher.verify(encoded, nfkc(password))

    async def _tokens(
        self, connection: Connection, user: User, company_id: UUID | None, family: UUID, ends: datetime
    ) -> Tokens:
        claims = Claims(
            subject=user.id,
            client_id=CONSOLE,
            user_name=user.user_name,
            user_type=user.user_type,
            role=user.role,
            affiliation=user.affiliation,
            company_id=company_id,
            locations=user.claimed_locations(company_id),
            authz_version=user.authz_version,
        )
        token_id, secret = uuid4(), new_secret()
        access_token = self._issuer.sign(await clients.active_key(connection), claims, token_id)
        until = min(datetime.now(UTC) + _IDLE, ends)
        row = RefreshToken(secret_hash(secret), family, user.id, company_id, token_id, False, until, ends)
        await sessions.insert_refresh_token(connection, row)
        return Tokens(access_token, self._issuer.seconds, company_id, secret)

    async def _audit(self, user: User | None, action: str) -> None:
        """Also for a name that nobody has, which may be a password typed in the wrong field: it is not kept."""
        async with acquire(self._pool) as connection:
            if user is None:
                await Act(connection, None, "").audit(action, None)
            else:
                await Act(connection, user.id, user.user_name).audit(action, user.id, user.company_ids)


async def _client(connection: Connection, client_id: str, secret: str) -> Client:
    # A NUL is no text for the database.
    found = None if "\0" in client_id else await clients.client_by_secret(connection, client_id, secret_hash(secret))
    if found is None:
        raise wrong_client()
    return found


async def _company_of(connection: Connection, user: User, wanted: str | None) -> UUID | None:
    """The company a token is for: the one asked for, else the default (U6), else the first that is open."""
    if user.role == OPERATOR:
        if wanted is not None:
            raise _no_such_company()
        return None
    mine = {str(c.id): c.id for c in (await companies.companies(connection, user.company_ids)).values() if c.active}
    if wanted is not None:
        if wanted.lower() not in mine:
            raise _no_such_company()
        return mine[wanted.lower()]
    if not mine:
        raise _wrong_credentials()
    return mine.get(str(user.default_company_id)) or next(iter(mine.values()))


async def _company_of_client(connection: Connection, client: Client, wanted: str | None) -> UUID | None:
    """An internal client may name any company or none; an EMR client one of its own, when it has several."""
    if client.kind == "internal" and wanted is None:
        return None
    ids = [_uuid(wanted)] if client.kind == "internal" and wanted else client.company_ids
    mine = {str(c.id): c.id for c in (await companies.companies(connection, ids)).values() if c.active}
    if wanted is not None:
        if wanted.lower() not in mine:
            raise _no_such_company()
        return mine[wanted.lower()]
    if len(mine) != 1:
        raise OAuthError("invalid_request", "company_id: this client has several companies, name one")
    return next(iter(mine.values()))


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise _no_such_company() from None
