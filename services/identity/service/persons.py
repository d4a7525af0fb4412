"""Who calls about his own sign-in: with an open session, or on the way to his first second factor."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from services.identity.domain import RECENT, User
from services.identity.service.acts import Act, current_user
from services.identity.store import factors, sessions
from services.identity.store.factors import Factors
from services.identity.store.sessions import RefreshToken
from shared.access.policy import MFA_ENROLMENT, PASSWORD_CHANGE
from shared.access.principal import Principal
from shared.db import Connection
from shared.errors import Forbidden, Unauthenticated


@dataclass(frozen=True, slots=True)
class Person:
    """The caller, what he has enrolled, and his session (None: a token for the enrolment, or for
    choosing a password)."""

    user: User
    factors: Factors
    session: RefreshToken | None

    @property
    def session_id(self) -> UUID | None:
        return self.session.id if self.session else None

    def require_recent(self, to: str = "change a way to sign in") -> None:
        """Ways to sign in, one's own and those that one administers, are changed only soon after a sign-in with all
        that is enrolled (ASVS 5.0 7.5.1), so that somebody who finds a screen unlocked, or an access token, cannot move
        in for good; nor does he open a company in an emergency."""
        if self.session is None:
            return
        if self.session.started_at < datetime.now(UTC) - RECENT:
            raise Forbidden(f"Sign in again to {to}", code="sign_in_again")
        if self.factors.any and "mfa" not in self.session.methods:
            raise Forbidden(f"Sign in with your second factor to {to}", code="sign_in_again")

    def require_second_factor(self) -> None:
        """As `require_recent`, of whoever has not proved one in this session."""
        if self.session is None or "mfa" not in self.session.methods:
            raise Forbidden("Sign in with a second factor: the company requires one", code="sign_in_again")


async def end_other_sessions(act: Act, me: Person) -> None:
    """After a way to sign in has changed (ASVS 5.0 7.4.3). Access tokens of the session that goes on are stale as well,
    and refreshed."""
    await act.withdraw_tokens(me.user.id)
    await sessions.end_sessions(act.connection, me.user.id, but=me.session_id)


async def strengthen(connection: Connection, me: Person, methods: tuple[str, ...]) -> None:
    """The session in which a factor is enrolled has proved it."""
    if me.session is not None:
        await sessions.set_methods(connection, me.session.id, methods)


async def person(connection: Connection, caller: Principal) -> Person:
    """The person who calls, as the database knows him now. Raises Unauthenticated when his session has ended, or when
    a token for the enrolment is used although there is something enrolled."""
    limited = caller.role in (MFA_ENROLMENT, PASSWORD_CHANGE)
    user = await current_user(connection, caller)
    enrolled = await factors.factors(connection, user.id)
    session = None
    if not limited:
        session = await sessions.session_of(connection, UUID(caller.token_id))
    if (session is None) != limited or (caller.role == MFA_ENROLMENT and enrolled.any):
        raise Unauthenticated("Your session has ended: sign in again")
    return Person(user, enrolled, session)
