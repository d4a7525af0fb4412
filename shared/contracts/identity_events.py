"""Events of identity: states, not changes. Each carries the whole current state of one thing and its version, so a
reader keeps the highest version it has seen and order does not matter."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from shared.contracts.envelope import Contract

COMPANY_CHANGED: Final = "identity.company_changed.v1"
LOCATION_CHANGED: Final = "identity.location_changed.v1"
USER_CHANGED: Final = "identity.user_changed.v1"
CLIENT_CHANGED: Final = "identity.client_changed.v1"


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


STATES: Final[dict[str, type[Contract]]] = {
    COMPANY_CHANGED: CompanyState,
    LOCATION_CHANGED: LocationState,
    USER_CHANGED: UserState,
    CLIENT_CHANGED: ClientState,
}
