"""Tokens for people who have proved who they are: which company, whether a second factor is due, the session.

A second factor is due when the person has enrolled one, or when the company requires one (`mfa_required`). Who has none
yet gets, by his password, a token without company and without a role of the matrix: it admits to the enrolment and to
nothing else, has no session and lives for minutes (decision record 11). Whose password is an initial one gets one that
admits to choosing another.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

import asyncpg

from services.identity.domain import Company, User
from services.identity.sealing import Sealer
from services.identity.service.acts import Act, administration, own_act
from services.identity.service.keys import active_key
from services.identity.store import companies, sessions
from services.identity.store.sessions import RefreshToken
from services.identity.tokens import Claims, Issuer, new_secret, secret_hash
from shared.access.policy import MFA_ENROLMENT, OPERATOR, PASSWORD_CHANGE
from shared.db import Connection, acquire

CONSOLE: Final = "console"
"""`client_id` of tokens that a person got: the product's own console and tools."""

# How a person proved himself, in the words of RFC 8176.
PASSWORD: Final = ("pwd",)
PASSWORD_AND_CODE: Final = ("pwd", "otp", "mfa")
PASSKEY: Final = ("pop", "user", "mfa")
_MFA: Final = "mfa"


class OAuthError(Exception):
    """An error answer of RFC 6749 section 5.2."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(error)
        self.error = error
        self.description = description
        self.status = status


def wrong_credentials() -> OAuthError:
    return OAuthError("invalid_grant", "The user name or password is not right, or the account cannot be used")


def no_such_company() -> OAuthError:
    """D11: one answer for a company that is absent, closed or another's."""
    return OAuthError("invalid_grant", "The company is not available to this account")


def mfa_required() -> OAuthError:
    return OAuthError("mfa_required", "Sign in with a second factor: a code in `otp`, or a passkey")


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the token endpoint answers. `scope` is set only when the token is good for less than the user's role."""

    access_token: str
    expires_in: int
    company_id: UUID | None
    refresh_token: str | None = None
    scope: str | None = None
    token_type: str = "Bearer"  # noqa: S105


@dataclass(frozen=True, slots=True)
class SessionIssuer:
    """Opens and renews sessions. `idle` and `longest` bound them; `operator_mfa`: the operator takes two factors."""

    issuer: Issuer
    sealer: Sealer
    idle: timedelta
    longest: timedelta
    operator_mfa: bool = False

    async def open(
        self,
        connection: Connection,
        user: User,
        company: str | None,
        methods: tuple[str, ...],
        *,
        has_factor: bool,
        since: datetime | None = None,
        replaced: str | None = None,
    ) -> Tokens:
        """A new session, or the token for the enrolment that has to come first. `since`: when the person proved
        himself, if not now; the session counts from then. `replaced`: the refresh token of a session that ends with
        this sign-in, in the transaction of `opening`. Raises OAuthError."""
        found = await _company_of(connection, user, company)
        companies_concerned = [found.id] if found else []
        act = Act(connection, user.id, user.user_name)
        if _MFA not in methods and (has_factor or self._takes_two(found)):
            if has_factor or methods != PASSWORD:
                raise mfa_required()
            await act.audit("mfa_enrolment_begun", user.id, companies_concerned)
            return await self._for_enrolment(connection, user)
        if replaced is not None:
            user = await _end_replaced(act, user, replaced)
        now = datetime.now(UTC)
        started = since or now
        row = RefreshToken(
            token_hash=b"",
            family=uuid4(),
            user_id=user.id,
            company_id=found.id if found else None,
            access_token_id=uuid4(),
            used=False,
            expires_at=now,
            family_expires_at=started + self.longest,
            started_at=started,
            issued_at=now,
            methods=methods,
        )
        tokens = await self._issue(connection, user, row)
        await act.audit("sign_in", user.id, companies_concerned, methods=list(methods))
        return tokens

    async def renew(self, connection: Connection, user: User, known: RefreshToken, company: str | None) -> Tokens:
        """The next tokens of a session, for the same company or another of the user's. Raises OAuthError, and then
        nothing has changed."""
        wanted = company or (str(known.company_id) if known.company_id else None)
        found = await _company_of(connection, user, wanted)
        if self._takes_two(found) and _MFA not in known.methods:
            raise mfa_required()
        await sessions.mark_used(connection, known.token_hash)
        # A shorter limit set since holds for the sessions that are open, too.
        ends = min(known.family_expires_at, known.started_at + self.longest)
        row = replace(
            known,
            company_id=found.id if found else None,
            access_token_id=uuid4(),
            issued_at=datetime.now(UTC),
            family_expires_at=ends,
        )
        if row.company_id is not None and row.company_id != known.company_id:
            await Act(connection, user.id, user.user_name).audit("company_entered", user.id, [row.company_id])
        return await self._issue(connection, user, row)

    def _takes_two(self, company: Company | None) -> bool:
        """Whether a second factor is required in a company; None: of the operator, who is in none."""
        return company.mfa_required if company is not None else self.operator_mfa

    def ended(self, known: RefreshToken) -> bool:
        """Whether a session has been idle for too long, or has gone on for too long."""
        now = datetime.now(UTC)
        return known.expires_at <= now or known.issued_at + self.idle <= now or known.started_at + self.longest <= now

    async def _issue(self, connection: Connection, user: User, row: RefreshToken) -> Tokens:
        until = min(row.issued_at + self.idle, row.family_expires_at)
        # Nobody asks again how the session stands while an access token is good.
        left = max(0, int((until - row.issued_at).total_seconds()))
        tokens = await self.for_minutes(connection, person_claims(user, row.company_id), left, row.access_token_id)
        secret = new_secret()
        await sessions.insert_refresh_token(
            connection, replace(row, token_hash=secret_hash(secret), used=False, expires_at=until)
        )
        return replace(tokens, refresh_token=secret)

    async def _for_enrolment(self, connection: Connection, user: User) -> Tokens:
        claims = replace(person_claims(user, None), role=MFA_ENROLMENT, locations=())
        token = await self._signed(connection, claims, uuid4())
        return Tokens(token, self.issuer.seconds, None, scope=MFA_ENROLMENT)

    async def for_new_password(self, connection: Connection, user: User) -> Tokens:
        """The token for choosing a password of one's own, for whose is an initial one."""
        await own_act(connection, user, "password_change_begun")
        claims = replace(person_claims(user, None), role=PASSWORD_CHANGE, locations=())
        token = await self._signed(connection, claims, uuid4())
        return Tokens(token, self.issuer.seconds, None, scope=PASSWORD_CHANGE)

    async def for_minutes(
        self, connection: Connection, claims: Claims, seconds: int, token_id: UUID | None = None
    ) -> Tokens:
        """An access token alone, which ends after so many seconds at the latest."""
        issuer = replace(self.issuer, seconds=min(self.issuer.seconds, seconds))
        token = issuer.sign(await active_key(connection, self.sealer), claims, token_id)
        return Tokens(token, issuer.seconds, claims.company_id)

    async def for_machine(self, connection: Connection, claims: Claims) -> Tokens:
        """An access token without a session."""
        return Tokens(await self._signed(connection, claims, uuid4()), self.issuer.seconds, claims.company_id)

    async def _signed(self, connection: Connection, claims: Claims, token_id: UUID) -> str:
        return self.issuer.sign(await active_key(connection, self.sealer), claims, token_id)


@asynccontextmanager
async def opening(pool: asyncpg.Pool, replaced: str | None) -> AsyncIterator[Connection]:
    """A transaction for a new session. Where another one ends with it, it is an administrative one: what makes access
    tokens stale goes into the event log."""
    if replaced is not None:
        async with administration(pool) as act:
            yield act.connection
    else:
        async with acquire(pool) as connection, connection.transaction():
            yield connection


async def _end_replaced(act: Act, user: User, refresh_token: str) -> User:
    """End the session that was open where somebody signs in (ASVS 5.0 7.2.4), whosever it is: who holds the token may
    end it. What is no token is passed over. The user as he is then."""
    digest = secret_hash(refresh_token)
    owner = await sessions.owner(act.connection, digest)
    if owner is None:
        return user
    version = await act.withdraw_tokens(owner)
    known = await sessions.refresh_token_for_update(act.connection, digest)
    if known is not None:
        await sessions.end_family(act.connection, known.family)
    await act.audit("session_replaced", owner)
    return replace(user, authz_version=version) if owner == user.id else user


def person_claims(user: User, company_id: UUID | None) -> Claims:
    return Claims(
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


async def _company_of(connection: Connection, user: User, wanted: str | None) -> Company | None:
    """The company a token is for: the one asked for, else the default (U6), else the first that is open."""
    if user.role == OPERATOR:
        if wanted is not None:
            raise no_such_company()
        return None
    mine = {str(c.id): c for c in (await companies.companies(connection, user.company_ids)).values() if c.active}
    if wanted is not None:
        if wanted.lower() not in mine:
            raise no_such_company()
        return mine[wanted.lower()]
    if not mine:
        raise wrong_credentials()
    return mine.get(str(user.default_company_id)) or next(iter(mine.values()))
