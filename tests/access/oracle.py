"""What the matrix says, read from roles.toml by a reader of its own: nothing here uses `shared.access`.

A rule is a text such as `payment_posting view | unassigned_payments partial | emr`: one of its terms suffices. Where a
handler asks more than the guard, that follows after `&`. A term is an area with a level, and with a scope where the
scope decides too; or a word: a caller beside the matrix, `member` (every person with a role of the matrix), `anyone`
(signed in), `public`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

_FILE: Final = Path(__file__).resolve().parents[2] / "shared" / "access" / "roles.toml"
ROLES: Final[dict[str, Any]] = tomllib.loads(_FILE.read_text("utf-8"))["roles"]
MACHINES: Final = ("operator", "emr", "internal")
ENROLLING: Final = "mfa_enrolment"
"""Signed in by password where a second factor is required and not yet there: may do nothing but enrol it."""
CHANGING: Final = "password_change"
"""Signed in by a password that somebody else chose: may do nothing but choose another."""
UNKNOWN: Final = "janitor"
"""A role that no catalogue has."""
BREAK_GLASS: Final = "break_glass"
"""The operator in an emergency: sees in one company what some role sees, and changes nothing (record 15)."""
CALLERS: Final = (*ROLES, *MACHINES, ENROLLING, CHANGING, UNKNOWN, BREAK_GLASS)
HEADS: Final = ("self_service_admin", "front_office_emr_restricted", "operator", UNKNOWN)
"""Callers of different reach, between whom every route is allowed and refused."""
_NO_EMERGENCY: Final = ("users", "company_constants", "my_payment_activity")

# D9: `partial` is view, and the few actions that ask for `partial`; it is no `add`.
_MEETS: Final = {
    "view": {"view", "partial", "add", "edit"},
    "partial": {"partial", "edit"},
    "add": {"add", "edit"},
    "edit": {"edit"},
}


AREAS: Final = tuple(next(iter(ROLES.values()))["grants"])
LEVELS: Final = ("none", "view", "partial", "add", "edit")


def meets(term: str, area: str, level: str) -> bool:
    """Whether who has this level of this area, and nothing else, is one of those that the term means; of a term with a
    scope only the first question, which the route's guard asks."""
    words = term.partition("&")[0].split()
    return len(words) > 1 and words[0] == area and level in _MEETS[words[1]]


def grant(role: str, area: str) -> tuple[str, str | None]:
    """Level and scope; an area that a role does not list is `none`."""
    if role == BREAK_GLASS:
        return _emergency(area)
    cell = ROLES[role]["grants"].get(area, {}) if role in ROLES else {}
    return cell.get("level", "none"), cell.get("scope")


def _emergency(area: str) -> tuple[str, str | None]:
    """View at the widest scope, wherever some role can view at all."""
    cells = [role["grants"][area] for role in ROLES.values() if role["grants"][area]["level"] != "none"]
    if area in _NO_EMERGENCY or not cells:
        return "none", None
    return "view", "all_locations" if any(cell.get("scope") == "all_locations" for cell in cells) else None


def admits(rule: str, caller: str) -> bool:
    return any(all(_term(part.split(), caller) for part in term.split("&")) for term in rule.split("|"))


def _term(words: list[str], caller: str) -> bool:
    if words == ["public"]:
        return True
    if words == ["anyone"]:
        return caller not in (ENROLLING, CHANGING)
    if words == ["member"]:
        return caller in ROLES
    if len(words) == 1:
        assert words[0] in (*MACHINES, ENROLLING, CHANGING, "nobody"), words
        return caller == words[0]
    area, level, *scope = words
    assert any(area in role["grants"] for role in ROLES.values()), area
    held, over = grant(caller, area)
    return held in _MEETS[level] and scope in ([], [over])
