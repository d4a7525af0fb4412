"""Why a user sees what he sees: each cell of the matrix that decides, in words, with its requirement (product.md).

Made of the policy object that every guard asks, so that it cannot say otherwise than they do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from services.identity.domain import Company, Editor, User, check_authority, check_user
from shared.access import policy
from shared.access.policy import LEVELS, Grant, Role
from shared.errors import FieldError, Forbidden, Invalid

_SCOPES: Final[Mapping[str | None, tuple[str, tuple[str, ...]]]] = {
    None: ("", ("U2", "U8")),
    "own_postings": (" for what the user posted himself", ("U2", "U8", "M1")),
    "all_locations": (" for every location of the company", ("U2", "U8", "B1")),
    "own_emr_locations": (" for the EMR locations granted to the user", ("U2", "U8", "R1", "R2", "R3", "R4", "R5")),
}
_REACH: Final[Mapping[str | None, int]] = {"own_postings": 0, "own_emr_locations": 1, None: 2, "all_locations": 2}
ADMINISTRATION: Final = frozenset({"users", "company_constants", "period_close", "audit_trail"})
"""Areas without rows of a location."""


def area_line(role: Role, name: str) -> dict[str, Any]:
    """One area: what the role has there, and by which cell and requirements."""
    grant = role.grant(name)
    words, requirements = _SCOPES[grant.scope]
    return {
        "area": name,
        "level": grant.level,
        "scope": grant.scope,
        "rule": f"{role.label} has {grant.level} in {name}{words} ({grant.basis})",
        "requirements": requirements if grant.allows("view") else ("U2", "U8"),
        "source": f"roles.toml: roles.{role.key}.grants.{name}",
    }


def company_line(user: User, company: Company, *, has_factor: bool) -> dict[str, Any]:
    """Whether the user gets in there now, and every reason for that or against."""
    role = policy.catalogue()[user.role]
    fits = company.service_type in role.service_types
    enrolled = "the user has one" if has_factor else "the user has none and must enrol one first"
    reasons = [
        (True, "U5", "The company is granted to the user"),
        (fits, "U9", f"{role.label} applies to {', '.join(role.service_types)}; the company is {company.service_type}"),
        (company.active, "U5", "The company is open" if company.active else "The company is closed"),
        (user.active, "U2", "The user is active" if user.active else "The user is inactive and cannot sign in"),
    ]
    if company.mfa_required:
        reasons.append((has_factor, "ASVS 6.3.2", f"The company requires a second factor: {enrolled}"))
    return {
        "id": company.id,
        "code": company.code,
        "name": company.name,
        "service_type": company.service_type,
        "admitted": all(good for good, _, _ in reasons),
        "reasons": [{"holds": good, "requirement": name, "text": text} for good, name, text in reasons],
    }


def refusals(editor: Editor, user: User, role: str, service_types: Mapping[UUID, str]) -> tuple[FieldError, ...]:
    """Why the editor cannot give the user a role: each rule by itself, so that one does not hide the next. Where the
    user has companies that the editor does not have, it is only that he may not: what else they would refuse is not
    told (U5)."""
    found: list[FieldError] = []
    known = policy.catalogue()[role]
    after = replace(user, role=role)
    try:
        check_authority(editor, user, after, new_password=False)
    except Forbidden as error:
        found.append(FieldError("role", error.code, error.detail))
        if editor.sees(user) != user:
            return tuple(found)
    for trial in (after, replace(after, user_type=known.user_type or after.user_type)):
        try:
            check_user(trial, service_types)
        except Invalid as error:
            found += [one for one in error.errors if one not in found]
    return tuple(found)


def compared(old: Role, new: Role) -> dict[str, list[str]]:
    """The areas in which another role gives more, less, something else, or the same."""
    found: dict[str, list[str]] = {"gained": [], "lost": [], "changed": [], "unchanged": []}
    for name in policy.areas():
        found[_change(old.grant(name), new.grant(name))].append(name)
    return found


def _change(old: Grant, new: Grant) -> str:
    if (old.level, old.scope) == (new.level, new.scope) or not (old.allows("view") or new.allows("view")):
        return "unchanged"
    more = _allowed(new) >= _allowed(old) and (_reach(new) >= _reach(old) or not old.allows("view"))
    less = _allowed(new) <= _allowed(old) and (_reach(new) <= _reach(old) or not new.allows("view"))
    return "unchanged" if more and less else "gained" if more else "lost" if less else "changed"


def _allowed(grant: Grant) -> frozenset[str]:
    return frozenset(level for level in LEVELS if level != "none" and grant.allows(level))


def _reach(grant: Grant) -> int:
    return _REACH[grant.scope]


def viewer(user: User, company_id: UUID, location_id: UUID) -> dict[str, Any] | None:
    """In which areas a user sees rows of a location, each with its rule; None: in none."""
    role = policy.role(user.role)
    if role is None or not user.active:
        return None
    claimed = user.claimed_locations(company_id)
    granted = claimed == "*" or location_id in claimed
    lines: Iterable[dict[str, Any]] = (
        area_line(role, name)
        for name in policy.areas()
        if name not in ADMINISTRATION
        and role.allows(name, "view")
        and (granted or role.grant(name).scope != "own_emr_locations")
    )
    areas = list(lines)
    if not areas:
        return None
    return {"id": user.id, "user_name": user.user_name, "role": role.key, "role_label": role.label, "areas": areas}
