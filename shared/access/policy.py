"""The role catalogue as data, and the one question asked of it: may this role do this in this area?"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

LEVELS: Final = ("none", "view", "partial", "add", "edit")
_RANK: Final = {"none": 0, "view": 1, "partial": 1, "add": 2, "edit": 3}
SERVICE_TYPES: Final = ("revserve", "revequip", "self_service")
OPERATOR: Final = "operator"
"""Role of the bootstrap user: companies, locations, users and clients of all companies, no billing data."""
EMR_CLIENT: Final = "emr"
INTERNAL_CLIENT: Final = "internal"
MFA_ENROLMENT: Final = "mfa_enrolment"
"""Role in the token of a person who has yet to enrol the second factor that his company requires. It is no role of the
catalogue, so nothing but the enrolment admits it."""
PASSWORD_CHANGE: Final = "password_change"  # noqa: S105
"""Role in the token of a person whose password is an initial one: it admits to choosing another and to nothing else."""
BREAK_GLASS: Final = "break_glass"
"""Role in a token of the operator for an emergency (45 CFR 164.312(a)(2)(ii)): it sees what any role sees in one
company and changes nothing. Nobody has it for longer than minutes, so it is no role of the catalogue."""
_NO_EMERGENCY: Final = frozenset({"users", "company_constants", "my_payment_activity"})
"""Administration, and the report of one's own postings: a reader has none."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a role has in one area."""

    level: str = "none"
    scope: str | None = None
    basis: str = "inferred"

    def allows(self, level: str) -> bool:
        """`partial` is asked for by the actions of decision D9 and is met by `partial` itself or by `edit`."""
        if level == "partial":
            return self.level in ("partial", "edit")
        return _RANK[self.level] >= _RANK[level]


NOTHING: Final = Grant()


@dataclass(frozen=True, slots=True)
class Role:
    """One row of the catalogue (U9, U16)."""

    key: str
    label: str
    service_types: tuple[str, ...]
    user_type: str | None
    assignable: tuple[str, ...]
    grants: Mapping[str, Grant]

    def grant(self, area: str) -> Grant:
        return self.grants.get(area, NOTHING)

    def allows(self, area: str, level: str) -> bool:
        return self.grant(area).allows(level)

    @property
    def limited_to_locations(self) -> bool:
        """True when some scope is the user's own EMR locations: only then do tokens carry a list (R1)."""
        return any(grant.scope == "own_emr_locations" for grant in self.grants.values())


@cache
def catalogue() -> Mapping[str, Role]:
    """Every role by key, in file order. Raises on an unknown level or area: a typo must neither grant nor hide."""
    document = tomllib.loads(resources.files(__package__).joinpath("roles.toml").read_text("utf-8"))
    roles: dict[str, Role] = {}
    for key, row in document["roles"].items():
        grants = {area: Grant(**cell) for area, cell in row["grants"].items()}
        for area, grant in grants.items():
            if grant.level not in LEVELS:
                raise ValueError(f"roles.toml: {key}.{area} has an unknown level")
        roles[key] = Role(
            key=key,
            label=row["label"],
            service_types=tuple(row["service_types"]),
            user_type=row.get("user_type"),
            assignable=tuple(row["assignable"]),
            grants=grants,
        )
    first = next(iter(roles.values()))
    for role in roles.values():
        if role.grants.keys() != first.grants.keys() or not set(role.assignable) <= roles.keys():
            raise ValueError(f"roles.toml: {role.key} does not list the same areas or names an unknown role")
    return roles


def areas() -> tuple[str, ...]:
    """Every area of the matrix, in file order."""
    return tuple(next(iter(catalogue().values())).grants)


def role(key: str) -> Role | None:
    return break_glass() if key == BREAK_GLASS else catalogue().get(key)


@cache
def break_glass() -> Role:
    """View of every area that some role can view, at its widest scope."""

    def widest(area: str) -> Grant:
        granted = [one.grant(area) for one in catalogue().values()]
        if area in _NO_EMERGENCY or not any(grant.allows("view") for grant in granted):
            return NOTHING
        scopes = {grant.scope for grant in granted}
        return Grant("view", "all_locations" if "all_locations" in scopes else None, "break-glass")

    return Role(BREAK_GLASS, "Break-glass", SERVICE_TYPES, OPERATOR, (), {area: widest(area) for area in areas()})
