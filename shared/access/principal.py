"""The verified caller of a request, as the token says; and the guard a route declares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from shared.access.policy import (
    BREAK_GLASS,
    EMR_CLIENT,
    INTERNAL_CLIENT,
    MFA_ENROLMENT,
    NOTHING,
    OPERATOR,
    PASSWORD_CHANGE,
    Grant,
    role,
)
from shared.errors import Forbidden, NotFound


@dataclass(frozen=True, slots=True)
class Principal:
    """Claims of an access token, parsed. `locations` is "*" or the granted EMR locations' ids."""

    subject: UUID
    client_id: str
    user_name: str
    user_type: str
    role: str
    affiliation: str
    company_id: UUID | None
    locations: Literal["*"] | frozenset[UUID]
    authz_version: int
    token_id: str
    expires_at: int

    def grant(self, area: str) -> Grant:
        known = role(self.role)
        return known.grant(area) if known else NOTHING

    def allows(self, area: str, level: str) -> bool:
        return self.grant(area).allows(level)

    def require(self, area: str, level: str) -> None:
        if not self.allows(area, level):
            raise Forbidden()

    @property
    def company(self) -> UUID:
        """The active company; a caller without one (operator, internal client) sees no company's objects."""
        if self.company_id is None:
            raise NotFound()
        return self.company_id

    @property
    def is_operator(self) -> bool:
        return self.role == OPERATOR

    @property
    def is_emr(self) -> bool:
        return self.role == EMR_CLIENT

    @property
    def is_internal(self) -> bool:
        return self.role == INTERNAL_CLIENT


@dataclass(frozen=True, slots=True)
class Guard:
    """Who may call a route. `any_of` lists (area, level) pairs of which one suffices; `member` admits every person
    with a role in the matrix, the other flags admit callers that are not in it. A route without any of these admits
    nobody."""

    any_of: tuple[tuple[str, str], ...] = ()
    public: bool = False
    authenticated: bool = False
    member: bool = False
    operator: bool = False
    emr: bool = False
    internal: bool = False
    enrolment: bool = False
    password_change: bool = False

    def admits(self, principal: Principal) -> bool:
        if principal.role == MFA_ENROLMENT:
            return self.enrolment
        if principal.role == PASSWORD_CHANGE:
            return self.password_change
        if principal.is_operator:
            return self.operator or self.authenticated
        if principal.is_emr:
            return self.emr or self.authenticated
        if principal.is_internal:
            return self.internal or self.authenticated
        # `member` routes are about oneself, or for those who belong to the company.
        if self.authenticated or (self.member and principal.role != BREAK_GLASS and role(principal.role) is not None):
            return True
        return any(principal.allows(area, level) for area, level in self.any_of)


def area(name: str, level: str = "view", *, operator: bool = False, emr: bool = False, internal: bool = False) -> Guard:
    """Guard of a route by one cell of the matrix."""
    return Guard(any_of=((name, level),), operator=operator, emr=emr, internal=internal)


PUBLIC = Guard(public=True)
ANYONE_SIGNED_IN = Guard(authenticated=True)
OPERATOR_ONLY = Guard(operator=True)
INTERNAL_ONLY = Guard(internal=True)
