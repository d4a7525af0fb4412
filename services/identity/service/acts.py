"""What every administrative change shares: one at a time, with its event and its line in the audit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import structlog

from services.identity.domain import Client, Company, Editor, Location, User
from services.identity.store import access, log, users
from shared.access.policy import OPERATOR
from shared.access.principal import Principal
from shared.access.revocation import stale
from shared.audit import AuditEntry, alert, current_address, insert
from shared.contracts.envelope import Contract, Event
from shared.contracts.identity_events import (
    ACCESS_CHANGED,
    CLIENT_CHANGED,
    COMPANY_CHANGED,
    LOCATION_CHANGED,
    USER_CHANGED,
    AccessState,
    ClientState,
    CompanyState,
    LocationState,
    UserState,
)
from shared.db import Connection, acquire
from shared.errors import Invalid
from shared.ids import uuid7

SOURCE: Final = "/identity"

# What the database refuses, as the field that a person can correct.
_REFUSED: Final = {
    "company_code": ("code", "taken", "Another company has this code"),
    "location_code": ("code", "taken", "Another location of the company has this code"),
    "location_emr": ("emr_location_id", "taken", "Another active location of the company has this EMR location"),
    "user_name": ("user_name", "taken", "Another user has this name"),
    "client_name": ("name", "taken", "Another client has this name"),
    "role_fits_service_type": ("service_type", "role_conflict", "Users of the company have roles of another type"),
}


@dataclass(frozen=True, slots=True)
class Act:
    """One administrative change under way, in its transaction."""

    connection: Connection
    actor_id: UUID | None
    actor_name: str

    async def publish_company(self, company: Company) -> None:
        state = CompanyState(company_id=company.id, **_without_id(company))
        await self._publish(COMPANY_CHANGED, state, f"company/{company.id}", company.version, company.id)

    async def publish_location(self, location: Location) -> None:
        state = LocationState(location_id=location.id, **_without_id(location))
        await self._publish(LOCATION_CHANGED, state, f"location/{location.id}", location.version, location.company_id)

    async def publish_user(self, user: User) -> None:
        state = UserState(
            user_id=user.id,
            version=user.version,
            user_name=user.user_name,
            display_name=user.display_name,
            affiliation=user.affiliation,
            company_ids=user.company_ids,
            active=user.active,
        )
        await self._publish(USER_CHANGED, state, f"user/{user.id}", user.version, None)

    async def publish_client(self, client: Client) -> None:
        await self._publish(
            CLIENT_CHANGED, ClientState(**_without_id(client)), f"client/{client.id}", client.version, None
        )

    async def publish_access(self, subject: UUID, authz_version: int) -> None:
        """Tokens of this user or client with a lower version are refused from now on, by every service."""
        now = datetime.now(UTC)
        state = AccessState(subject=subject, authz_version=authz_version, not_before=int(now.timestamp()))
        await self._publish(ACCESS_CHANGED, state, f"access/{subject}", authz_version, None)

    async def publish_keys(self) -> None:
        """The keys that verify tokens have changed, so that everybody's tokens must be verified again."""
        now = datetime.now(UTC)
        state = AccessState(not_before=int(now.timestamp()))
        await self._publish(ACCESS_CHANGED, state, "access", int(now.timestamp() * 1_000_000), None)

    async def withdraw_tokens(self, user_id: UUID) -> int:
        """Make the access tokens that a user has stale; his version of rights from now on. Before his sessions are
        touched: a refresh locks the user first, too."""
        version = await access.advance(self.connection, user_id)
        await self.publish_access(user_id, version)
        return version

    async def _publish(self, kind: str, state: Contract, entity: str, version: int, company: UUID | None) -> None:
        event = Event[Any](
            id=uuid7(),
            source=SOURCE,
            type=kind,
            time=datetime.now(UTC),
            subject=str(company) if company else None,
            correlationid=structlog.contextvars.get_contextvars().get("correlation_id"),
            data=state,
        )
        await log.append(self.connection, event, entity, version)

    async def audit(
        self,
        action: str,
        subject: UUID | None,
        company_ids: Iterable[UUID] = (),
        changed: Iterable[str] = (),
        **details: Any,
    ) -> None:
        """Write down who did what; `changed` names fields, `details` are ids, numbers and words of ours. What the
        operator does is also told to whoever watches."""
        if self.actor_name == OPERATOR:
            alert("operator_act", action=action, subject_id=subject)
        await insert(
            self.connection,
            [
                AuditEntry(
                    id=uuid7(),
                    at=datetime.now(UTC),
                    action=action,
                    actor_id=self.actor_id,
                    actor_name=self.actor_name,
                    subject_id=None if subject is None else str(subject),
                    company_ids=tuple(dict.fromkeys(company_ids)),
                    changed=tuple(changed),
                    request_id=structlog.contextvars.get_contextvars().get("request_id"),
                    address=current_address(),
                    details=details,
                )
            ],
        )


def _without_id(thing: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(thing).items() if name != "id"}


def changed_fields(before: Any, after: Any) -> list[str]:
    """Names of the fields in which two dataclasses of one kind differ."""
    new = asdict(after)
    return [name for name, value in asdict(before).items() if new[name] != value]


@asynccontextmanager
async def administration(pool: asyncpg.Pool, caller: Principal | None = None) -> AsyncIterator[Act]:
    """A transaction in which nobody else administers. Raises Invalid for what the database's constraints refuse."""
    try:
        async with acquire(pool) as connection, connection.transaction():
            await log.lock(connection)
            yield Act(connection, *((caller.subject, caller.user_name) if caller else (None, "system")))
    except asyncpg.IntegrityConstraintViolationError as error:
        if error.constraint_name not in _REFUSED:
            raise
        raise Invalid.field(*_REFUSED[error.constraint_name]) from None


async def own_act(connection: Connection, somebody: User | Client | None, action: str, **details: Any) -> None:
    """Write down what somebody did for himself, or tried to, in whichever company. None: under a name that nobody has;
    it may be a password typed in the wrong field, and is not kept."""
    if somebody is None:
        await Act(connection, None, "").audit(action, None, **details)
        return
    name = somebody.user_name if isinstance(somebody, User) else somebody.name
    await Act(connection, somebody.id, name).audit(action, somebody.id, somebody.company_ids, **details)


async def current_user(connection: Connection, caller: Principal) -> User:
    """The person who calls, as the database knows him now, in the transaction that acts on it: what the guard has found
    current may have changed since. It answers 401 `token_stale`, and the next token says it right (U12)."""
    user = await users.user(connection, caller.subject)
    if user is None or not user.active or user.authz_version != caller.authz_version:
        raise stale()
    return user


async def current_editor(connection: Connection, caller: Principal) -> Editor:
    user = await current_user(connection, caller)
    return Editor(user.id, user.role, frozenset(user.company_ids), caller.company_id)
