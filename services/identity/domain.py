"""What identity knows, and the rules about it, without I/O: types, roles, companies and locations of users.

Requirements: U1-U13, U15-U17, D4, D7, D8 of the product's rules; each rule raises `Invalid` naming the field, or
`Forbidden` when the value is fine but this editor may not choose it.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple
from uuid import UUID

from shared.access.policy import OPERATOR, Role, catalogue, role
from shared.errors import Forbidden, Invalid

CUSTOMER: Final = "customer"
PRACTICE: Final = "practice"
PASSWORD_LENGTHS: Final = range(8, 257)
INITIAL: Final = timedelta(days=3)
"""How long an initial password waits for being changed."""
RECENT: Final = timedelta(minutes=15)
"""How long a sign-in counts as fresh: here for changes of ways to sign in, and at a provider for us."""
CLOCKS: Final = timedelta(minutes=5)
"""How far the clocks of identity's processes, and that of its database, may differ."""
MOST_LOCATIONS: Final = 100
"""EMR locations of a user in one company: they stand in his access token, which has to fit into a header."""
OWN_NAMES: Final = ("user_name", "first_name", "last_name", "email")
"""Fields of a user that his password must not consist of."""
TYPED_PASSWORD: Final = 1_024
"""Longest password before normalisation, which can make it shorter; what is longer is not even looked at."""


@dataclass(frozen=True, slots=True)
class Company:
    id: UUID
    code: str
    name: str
    service_type: str
    time_zone: str
    close_policy: str
    npis: tuple[str, ...] = ()
    active: bool = True
    version: int = 1
    mfa_required: bool = False


@dataclass(frozen=True, slots=True)
class Location:
    company_id: UUID
    id: UUID
    code: str
    name: str
    emr_location_id: str | None = None
    active: bool = True
    version: int = 1


class LocationGrant(NamedTuple):
    """A location that a user may see; the company with it, because rights in a company end with its grant."""

    company_id: UUID
    location_id: UUID


@dataclass(frozen=True, slots=True)
class User:
    """A person. The operator is one too, without a company (`default_company_id` None)."""

    id: UUID
    user_name: str
    first_name: str
    last_name: str
    email: str
    user_type: str
    role: str
    affiliation: str = PRACTICE
    company_ids: tuple[UUID, ...] = ()
    default_company_id: UUID | None = None
    locations: tuple[LocationGrant, ...] = ()
    active: bool = True
    version: int = 1
    authz_version: int = 1

    @property
    def display_name(self) -> str:
        return f"{self.first_name} {self.last_name}".strip()

    @property
    def emr_location_ids(self) -> tuple[UUID, ...]:
        return tuple(grant.location_id for grant in self.locations)

    def claimed_locations(self, company_id: UUID | None) -> Literal["*"] | tuple[UUID, ...]:
        """The token's `locations` in a company: a list, maybe empty, only for a role with a location scope (R1, R4)."""
        known = role(self.role)
        if known is None or not known.limited_to_locations:
            return "*"
        return tuple(grant.location_id for grant in self.locations if grant.company_id == company_id)


@dataclass(frozen=True, slots=True)
class Client:
    """A machine user. `kind` emr: sends feeds of its companies; internal: the services themselves."""

    id: UUID
    client_id: str
    name: str
    kind: str
    company_ids: tuple[UUID, ...] = ()
    sources: tuple[str, ...] = ()
    active: bool = True
    version: int = 1


@dataclass(frozen=True, slots=True)
class BreakGlass:
    """Access of the operator to one company in an emergency, until `expires_at` or an earlier end."""

    id: UUID
    company_id: UUID
    user_id: UUID
    reason: str
    opened_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Editor:
    """Who administers, as the database knows him now and not as his token once did."""

    id: UUID
    role: str
    company_ids: frozenset[UUID]
    active_company_id: UUID | None

    @property
    def is_operator(self) -> bool:
        return self.role == OPERATOR

    def may_grant(self, company_id: UUID) -> bool:
        """U5, U13: one can hand out what one has; the operator anything."""
        return self.is_operator or company_id in self.company_ids

    def sees(self, user: User) -> User:
        """The user with only those companies and locations that the editor has himself (U5)."""
        default = user.default_company_id
        return replace(
            user,
            company_ids=tuple(filter(self.may_grant, user.company_ids)),
            locations=tuple(grant for grant in user.locations if self.may_grant(grant.company_id)),
            default_company_id=default if default and self.may_grant(default) else None,
        )


def requested_companies(editor: Editor, user_type: str, requested: Iterable[UUID] | None) -> tuple[UUID, ...]:
    """The companies of a new or changed user, of those the editor has. U7: a Customer gets the editor's active one."""
    wanted = None if requested is None else tuple(dict.fromkeys(requested))
    if user_type == CUSTOMER and not editor.is_operator:
        mine = (editor.active_company_id,) if editor.active_company_id else ()
        if wanted is not None and wanted != mine:
            raise Invalid.field("company_ids", "not_the_active_company", "A Customer gets the company you are in")
        return mine
    if wanted is None:
        raise Invalid.field("company_ids", "required", "Choose the companies of this user")
    return wanted


def known_role(key: str) -> Role:
    """The role of the catalogue with this key, or 422."""
    known = catalogue().get(key)
    if known is None:
        raise Invalid.field("role", "unknown_role", "There is no such role")
    return known


def check_user(user: User, service_types: Mapping[UUID, str]) -> None:
    """Type, role, companies and default must fit each other (U3, U4, U6, U9, U10, D7). The mapping gives the service
    type of each of the user's companies."""
    known = known_role(user.role)
    if known.user_type and known.user_type != user.user_type:
        raise Invalid.field("user_type", "role_requires_type", f"This role requires the user type {known.user_type}")
    if user.user_type == CUSTOMER and len(user.company_ids) != 1:
        raise Invalid.field("company_ids", "one_company", "A Customer has exactly one company")
    if not user.company_ids:
        raise Invalid.field("company_ids", "required", "A user has at least one company")
    if any(service_types[company_id] not in known.service_types for company_id in user.company_ids):
        raise Invalid.field("role", "service_type", "This role does not apply to the service type of every company")
    if user.default_company_id not in user.company_ids:
        raise Invalid.field("default_company_id", "not_granted", "The default must be one of the user's companies")


def check_locations(locations: Iterable[LocationGrant]) -> None:
    """Not more in a company than a token can say, whatever the role, because that may change."""
    if any(many > MOST_LOCATIONS for many in Counter(grant.company_id for grant in locations).values()):
        raise Invalid.field("emr_location_ids", "too_many", f"At most {MOST_LOCATIONS} locations in a company")


def check_authority(editor: Editor, before: User | None, after: User, *, new_password: bool) -> None:
    """What only some may do: hand out a role (D4), set an affiliation (D8), touch an account that reaches into
    companies the editor does not have (U13: not beyond)."""
    known_role(after.role)
    if editor.is_operator:
        return
    if after.affiliation != (before.affiliation if before else PRACTICE):
        raise Forbidden("Only the operator sets an affiliation")
    if before is not None and before.id == editor.id:
        if new_password:
            raise Forbidden("Your own password is changed with the old one")
        if after.role != before.role:
            raise Forbidden("Nobody changes his own role")
    else:
        mine = role(editor.role)
        roles = {after.role} | ({before.role} if before else set())
        # The current role too: who could reset the password of a higher role would have that role.
        if mine is None or not roles <= set(mine.assignable):
            raise Forbidden("Your role cannot give or administer this role")
    beyond = before is not None and not all(map(editor.may_grant, before.company_ids))
    if before is not None and beyond and (new_password or _account(before) != _account(after)):
        raise Forbidden("This user has companies that you do not have: only the operator changes the account")


def _account(user: User) -> tuple[object, ...]:
    return (user.user_name, user.first_name, user.last_name, user.email, user.user_type, user.role, user.active)


def rights_changed(before: User, after: User) -> bool:
    """Whether tokens issued for `before` say something that is no longer so."""

    def rights(user: User) -> tuple[object, ...]:
        sets = frozenset(user.company_ids), frozenset(user.locations)
        return (user.user_type, user.role, user.affiliation, user.active, *sets)

    return rights(before) != rights(after)


def sign_in_changed(before: User, after: User) -> bool:
    """Whether somebody signs in by another name, or at a provider with another address."""
    return (before.user_name, before.email) != (after.user_name, after.email)


def administrator_roles() -> tuple[str, ...]:
    """U11: the roles that can administer users."""
    return tuple(key for key, known in catalogue().items() if known.allows("users", "edit"))


def administered_companies(user: User | None) -> frozenset[UUID]:
    """Companies in which the user is an active administrator (D4: the last one stays)."""
    if user is None or not user.active or user.role not in administrator_roles():
        return frozenset()
    return frozenset(user.company_ids)


def last_administrator(before: User, after: User) -> Invalid:
    """The refusal, naming the field by which a company would lose its last administrator."""
    field = "active" if before.active != after.active else "role" if before.role != after.role else "company_ids"
    return Invalid.field(field, "last_administrator", "A company keeps at least one active administrator")


def nfkc(text: str) -> str:
    """One form for what keyboards produce differently (SP 800-63B 3.1.1.2)."""
    return unicodedata.normalize("NFKC", text)


def too_easy() -> Invalid:
    return Invalid.field("password", "too_common", "This password is too easy to guess")


def check_password(password: str, names: Iterable[str], *, common: Set[str], context: Set[str]) -> str:
    """The password as it will be hashed. Any characters but NUL and halves of surrogate pairs; no composition rules
    (ASVS 5.0 6.2); refused when the whole of it is a common password or one of the names (the user's, his companies'),
    or is made of words of those and of the context."""
    if any(character == "\0" or 0xD800 <= ord(character) < 0xE000 for character in password):
        raise Invalid.field("password", "invalid_text", "This character cannot be part of a password")
    chosen = nfkc(password[: TYPED_PASSWORD + 1])
    if len(password) > TYPED_PASSWORD or len(chosen) not in PASSWORD_LENGTHS:
        raise Invalid.field("password", "length", "A password has 8 to 256 characters")
    folded = [nfkc(name).casefold() for name in names]
    if chosen.casefold() in common or chosen.casefold() in folded or made_of(chosen, context | _words(folded)):
        raise too_easy()
    return chosen


def _words(names: Iterable[str]) -> set[str]:
    """What names are made of, as far as it has three letters or more."""
    parts = ("".join(c if c.isalpha() else " " for c in name).split() for name in names)
    return {word for words in parts for word in words if len(word) > 2}


def made_of(password: str, words: Set[str]) -> bool:
    """Whether the letters of a password, at least half of it, are these words (casefolded) one after the other."""
    letters = "".join(filter(str.isalpha, password.casefold()))
    reached = {0}
    for end in range(1, len(letters) + 1):
        if any(letters.endswith(word, 0, end) and end - len(word) in reached for word in words):
            reached.add(end)
    return 2 * len(letters) >= len(password) and len(letters) in reached
