"""Getting tokens (RFC 6749): by password and code, by refresh token, by a client's secret; ending sessions (RFC 7009).

Refresh tokens are used once. A second use means that two parties hold the token, so the whole family ends (RFC 9700
4.14.2). Rights are read again at each refresh (U12).
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from services.identity.domain import TYPED_PASSWORD, Client, User, nfkc
from services.identity.passwords import Hasher
from services.identity.service.acts import Act, administration, own_act
from services.identity.service.factors import accept_code
from services.identity.service.issuing import (
    PASSWORD,
    PASSWORD_AND_CODE,
    OAuthError,
    SessionIssuer,
    Tokens,
    mfa_required,
    no_such_company,
    opening,
    wrong_credentials,
)
from services.identity.service.throttle import Attempt, Throttle, account_name
from services.identity.store import access, break_glass, clients, companies, factors, sessions, users
from services.identity.tokens import Claims, secret_hash
from shared.access.policy import BREAK_GLASS, EMR_CLIENT, INTERNAL_CLIENT
from shared.access.principal import Principal
from shared.access.tokens import TokenVerifier
from shared.audit import alert
from shared.db import Connection, acquire
from shared.errors import Unauthenticated, Unavailable


def _wrong_token() -> OAuthError:
    return OAuthError("invalid_grant", "The refresh token is not valid")


def wrong_client() -> OAuthError:
    return OAuthError("invalid_client", "The client id or secret is not right", status=401)


class SignIn:
    """Every method raises OAuthError; those that verify a password also TooManyRequests and Unavailable."""

    def __init__(
        self, pool: asyncpg.Pool, hasher: Hasher, issuing: SessionIssuer, verifier: TokenVerifier, throttle: Throttle
    ) -> None:
        self._pool = pool
        self._hasher = hasher
        self._issuing = issuing
        self._verifier = verifier
        self._throttle = throttle

    async def by_password(
        self,
        user_name: str,
        password: str,
        otp: str | None,
        company: str | None,
        address: str,
        *,
        replaced: str | None = None,
    ) -> Tokens:
        """Unknown user, wrong password, wrong code and unusable account give one answer; the first two take as long.
        A code that is missing is asked for (`mfa_required`), which only the right password brings to light. `replaced`:
        a refresh token whose session ends with this sign-in."""
        name = account_name(user_name)
        async with self._throttle.attempt(name, address, "sign_in_failed", methods=PASSWORD) as attempt:
            async with acquire(self._pool) as connection:
                user, encoded = await users.user_by_name(connection, name) or (None, None)
            attempt.owner = user
            right = await self._right_password(encoded, password)
            if user is not None and user.active and right:
                await self._ask_for_code(user, otp, attempt)
        if attempt.undecided:
            raise mfa_required()
        if user is None or not attempt.right:
            raise wrong_credentials()
        async with opening(self._pool, replaced) as connection:
            # Read again under a lock: a password changed this instant must not leave a session behind.
            locked = await users.user_for_share(connection, user.id)
            if locked is None or not locked[0].active or locked[1] != encoded:
                raise wrong_credentials()
            tokens = await self._tokens(connection, locked[0], company, replaced, coded=attempt.coded)
        if tokens is None:
            raise wrong_credentials()
        await self._strengthen(user, encoded, password)
        return tokens

    async def _tokens(
        self, connection: Connection, user: User, company: str | None, replaced: str | None, *, coded: bool
    ) -> Tokens | None:
        """For who has given the right password, and the code if he has one; None when it was an initial password that
        nobody has changed in time."""
        until = await users.initial_until(connection, user.id)
        if until is None:
            has_factor = (await factors.factors(connection, user.id)).any
            methods = PASSWORD_AND_CODE if coded else PASSWORD
            return await self._issuing.open(
                connection, user, company, methods, has_factor=has_factor, replaced=replaced
            )
        if until > datetime.now(UTC):
            return await self._issuing.for_new_password(connection, user)
        await own_act(connection, user, "sign_in_failed", methods=PASSWORD, reason="initial_password_expired")
        return None

    async def _ask_for_code(self, user: User, otp: str | None, attempt: Attempt) -> None:
        """Decide an attempt whose password is right."""
        async with acquire(self._pool) as connection:
            if not (await factors.factors(connection, user.id)).any:
                attempt.succeeded()
            elif otp is None:
                attempt.left_open()
            elif await accept_code(connection, self._issuing.sealer, user, otp):
                attempt.succeeded(coded=True)

    async def _strengthen(self, user: User, encoded: str | None, password: str) -> None:
        """A hash made with weaker parameters is made again, now that the password is known."""
        if encoded is not None and self._hasher.is_weak(encoded):
            try:
                stronger = await self._hasher.hash(nfkc(password))
            except Unavailable:
                return  # Another time.
            async with acquire(self._pool) as connection:
                await users.replace_hash(connection, user.id, encoded, stronger)

    async def by_refresh_token(self, token: str, company: str | None) -> Tokens:
        """The next pair, for the same company or another of the user's. A refused company leaves the token good."""
        digest = secret_hash(token)
        async with acquire(self._pool) as connection, connection.transaction():
            user_id = await sessions.owner(connection, digest)
            # The user first and the token second, the order in which a change of password locks them.
            user, _ = (await users.user_for_share(connection, user_id) if user_id else None) or (None, None)
            known = await sessions.refresh_token_for_update(connection, digest)
            if known is None or user is None:
                raise _wrong_token()
            if not known.used:
                if not user.active or self._issuing.ended(known):
                    raise _wrong_token()
                return await self._issuing.renew(connection, user, known, company)
            await sessions.end_family(connection, known.family)
        # Only now, after the commit: raised above, it would undo the end of the family; and there the user is locked,
        # whom an administrative change locks after all others.
        async with administration(self._pool) as act:
            await act.withdraw_tokens(user.id)
            await own_act(act.connection, user, "refresh_token_reused")
        alert("refresh_token_reused", user_id=user.id)
        raise _wrong_token()

    async def by_client(self, client_id: str, secret: str, company: str | None, address: str) -> Tokens:
        client = await self.known_client(client_id, secret, address)
        async with acquire(self._pool) as connection:
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
            act = Act(connection, client.id, client.name)
            await act.audit("client_sign_in", client.id, [company_id] if company_id else (), methods=["client_secret"])
            return await self._issuing.for_machine(connection, claims)

    async def known_client(self, client_id: str, secret: str, address: str) -> Client:
        """The client that proves its identity."""
        client = None
        async with self._throttle.client_attempt(client_id, address, "client_sign_in_failed") as attempt:
            if "\0" not in client_id:  # A NUL is no text for the database.
                async with acquire(self._pool) as connection:
                    client, right = await clients.client_by_id(connection, client_id, secret_hash(secret))
                attempt.owner = client
                if right:
                    attempt.succeeded()
        if client is None or not attempt.right:
            raise wrong_client()
        return client

    async def revoke(self, token: str) -> None:
        """End the session that a refresh token, or an access token that came with one, belongs to. What is no token
        is no error. The user's access tokens are stale then; a client's has no session, and the answer says so."""
        if token.count(".") == 2:
            try:
                principal = await self._verifier.verify(token)
            except Unauthenticated:
                return
            if principal.user_type == "client":
                raise OAuthError("unsupported_token_type", "A client's access tokens end by themselves")
            async with administration(self._pool) as act:
                await act.withdraw_tokens(principal.subject)
                family = await sessions.family_of_access_token(act.connection, UUID(principal.token_id))
                await _sign_out(act, principal.subject, family)
            return
        digest = secret_hash(token)
        async with acquire(self._pool) as connection:
            owner = await sessions.owner(connection, digest)
        if owner is None:
            return
        async with administration(self._pool) as act:
            await act.withdraw_tokens(owner)
            known = await sessions.refresh_token_for_update(act.connection, digest)
            await _sign_out(act, owner, known.family if known else None)

    async def inspect(self, token: str) -> Principal | None:
        """The holder of an access token that is good now: signed, not ended, session open, rights unchanged."""
        try:
            principal = await self._verifier.verify(token)
        except Unauthenticated:
            return None
        async with acquire(self._pool) as connection:
            good = await access.current_version(connection, principal.subject) == principal.authz_version
            if principal.user_type != "client":
                good = good and await _is_open(connection, principal)
        return principal if good else None

    async def _right_password(self, encoded: str | None, password: str) -> bool:
        # What nobody can have chosen is wrong without being hashed; that says nothing of the account.
        if len(password) > TYPED_PASSWORD:
            return False
        return await self._hasher.verify(encoded, nfkc(password))


async def _sign_out(act: Act, user_id: UUID, family: UUID | None) -> None:
    """End a session, unless it has ended."""
    if family is not None:
        await sessions.end_family(act.connection, family)
        await own_act(act.connection, await users.user(act.connection, user_id), "signed_out")


async def _is_open(connection: Connection, principal: Principal) -> bool:
    """Whether the session that a token came with goes on, or the emergency that it was given for."""
    if principal.role == BREAK_GLASS:
        return await break_glass.has_open(connection, principal.subject, principal.company, datetime.now(UTC))
    return await sessions.session_of(connection, UUID(principal.token_id)) is not None


async def _company_of_client(connection: Connection, client: Client, wanted: str | None) -> UUID | None:
    """An internal client may name any company or none; an EMR client one of its own, when it has several."""
    if client.kind == "internal" and wanted is None:
        return None
    ids = [_uuid(wanted)] if client.kind == "internal" and wanted else client.company_ids
    mine = {str(c.id): c.id for c in (await companies.companies(connection, ids)).values() if c.active}
    if wanted is not None:
        if wanted.lower() not in mine:
            raise no_such_company()
        return mine[wanted.lower()]
    if len(mine) != 1:
        raise OAuthError("invalid_request", "company_id: this client has several companies, name one")
    return next(iter(mine.values()))


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise no_such_company() from None
