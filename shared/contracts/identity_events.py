"""Events of identity: states, not changes. Each carries the whole current state of one thing and its version, so a
reader keeps the highest version it has seen and order does not matter."""

from __future__ import annotations

from datetime import datetime
from typing import Final
from uuid import UUID

from shared.contracts.envelope import Contract

COMPANY_CHANGED: Final = "identity.company_changed.v1"
LOCATION_CHANGED: Final = "identity.location_changed.v1"
USER_CHANGED: Final = "identity.user_changed.v1"
CLIENT_CHANGED: Final = "identity.client_changed.v1"
ACCESS_CHANGED: Final = "identity.access.changed.v1"
HEARTBEAT: Final = "identity.heartbeat.v1"
HEARTBEAT_KEY: Final = "heartbeat.identity"
"""The heartbeat's routing key: outside of `identity.#`, so that no durable queue collects heartbeats."""


class CompanyState(Contract):
    company_id: UUID
    version: int
    code: str
    name: str
    service_type: str
    time_zone: str
    close_policy: str
    npis: tuple[str, ...] = ()
    active: bool = True


class LocationState(Contract):
    company_id: UUID
    location_id: UUID
    version: int
    code: str
    name: str
    emr_location_id: str | None = None
    active: bool = True


class UserState(Contract):
    """What reports need of a user: no e-mail, no secret. `display_name` is shown as the poster's name."""

    user_id: UUID
    version: int
    user_name: str
    display_name: str
    affiliation: str
    company_ids: tuple[UUID, ...] = ()
    active: bool = True


class ClientState(Contract):
    """A machine client of kind `emr`: the CloudEvents sources it may send and the companies it may write to."""

    client_id: str
    version: int
    name: str
    kind: str
    company_ids: tuple[UUID, ...] = ()
    sources: tuple[str, ...] = ()
    active: bool = True


class AccessState(Contract):
    """From now on the tokens of a subject with a lower `authz_ver` are refused. `subject` is the `sub` of tokens, a
    user's or a client's id; none means everybody: the keys that verify tokens, and their `not_before`, have changed.
    `not_before` is when it happened (Unix seconds)."""

    subject: UUID | None = None
    authz_version: int = 0
    not_before: int


class Heartbeat(Contract):
    """Whatever identity had committed before `as_of` has been published. It comes every few seconds, is in no log, and
    its silence means that changes of access may have gone unheard."""

    as_of: datetime


STATES: Final[dict[str, type[Contract]]] = {
    COMPANY_CHANGED: CompanyState,
    LOCATION_CHANGED: LocationState,
    USER_CHANGED: UserState,
    CLIENT_CHANGED: ClientState,
    ACCESS_CHANGED: AccessState,
}
