"""The role catalogue: the matrix cell by cell, its order properties (P12), and the rules that tie users to roles."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.identity.domain import (
    CUSTOMER,
    Editor,
    LocationGrant,
    User,
    administered_companies,
    check_user,
    requested_companies,
    rights_changed,
)
from shared.access.policy import LEVELS, Grant, areas, catalogue
from shared.errors import Invalid

# Columns in the order of the catalogue. - none, v view, p partial, a add, e edit; ! when the seeds state it.
MATRIX = """
users                           e  -  -  -  e! -  -  -  e! v! -  -  -  -  -
company_constants               v  -  -  -  e! -  -  -  e! v! -  -  -  -  e!
patients                        e  v! v  v  e! e! e! v  e! v  v! v! v  v  v
insurances                      v  v! v  v  e! v  v  v  e! v  v  v  v  v  e
referring_physicians            v  v! v  v  e! v  v  v  e! v  v  v  v  v  e
active_charges                  v! e! e  -! e! a! a! a  e! v  e! v! v  v  e!
delayed_charges                 v! v  v  -  e! v  v  v  e! v  v  v  -  v  e
charges_by_patient              v  e! e  v! e! a! a! a  e! v  e! v! v  v  e!
claims                          v  -  -  -  e! v  -  e! e! e! -  p! -  p  e!
claims_worklists                v  -  -  -  e! -  -  e  e! e! -  e! -  e  e!
denials                         v  -  -  -  e! e  -  e  e! e  -  e  -  e  e!
payment_posting                 v  -  -  -  e! e! e! e! e! e! -  p! e! e! -
unassigned_payments             e  e! e  e  e! e  e  e  e! e! e! p  e! e! v
zero_pays                       v  -  -  -  e! e! -  e  e! e! -  e  e  e  e
open_balances                   v  -  -  -  e! e! -  e  e! e! -  e  -  e  e!
ar_follow_up                    v  -  -  -  e! e! -  e! e! e! -  e! -  e! e!
my_payment_activity             v! v  v  v  v! v! v! v! v! v! v  v  v! v! -
payment_balancing               v! -  v! -  v! v! v! v! v! v! -  -  v! v! -
payment_balancing_full_access   v  -  -  -  v! -  -  -  v! -  -  -  -  -  -
aging_reports                   v! -  -  -  v! v! -  v! v! v  v  v  -  v! v
balance_reports                 v! -  -  -  v! v  -  v  v! v  v! v  -  v  v!
productivity_reports            v! v! v  v  v! -  -  -  v! v  v  v  -  v  -
exception_reports               v! v! v  v  v! -  -  -  v! v  v  v  -  v  v
key_reports                     v! -  -  -  v! -  -  -  v! v  -  -  -  -  v!
period_close                    -  -  -  -  e  -  -  -  e  v  -  -  -  -  -
audit_trail                     v  -  -  -  v! -  -  -  v! v  -  -  -  -  -
"""
LETTERS = {"-": "none", "v": "view", "p": "partial", "a": "add", "e": "edit"}
RCM = ("practice_admin", "front_office", "front_office_emr_restricted", "provider")
PARTNER = ("partner_admin", "partner_csr_and_payment_poster", "partner_payment_poster", "partner_csr")
SELF_SERVICE = (
    "self_service_admin",
    "self_service_manager",
    "self_service_front_office",
    "self_service_ar_specialist",
    "self_service_payment_poster",
    "self_service_ar_and_payments",
    "self_service_claims_mgmt",
)


def scope(area: str, role: str, level: str) -> str | None:
    """The row-level dimension of a cell, if it has one."""
    if level == "none":
        return None
    if area == "my_payment_activity":
        return "own_postings"
    if area == "payment_balancing":
        return "own_emr_locations" if role == "front_office_emr_restricted" else "all_locations"
    return None


def test_the_matrix() -> None:
    rows = [line.split() for line in MATRIX.strip().splitlines()]
    assert tuple(row[0] for row in rows) == areas()
    for area, *cells in rows:
        for (key, role), cell in zip(catalogue().items(), cells, strict=True):
            level = LETTERS[cell[0]]
            expected = Grant(level, scope(area, key, level), "stated" if cell.endswith("!") else "inferred")
            assert role.grant(area) == expected, (area, key)


def test_u16_fifteen_roles_with_their_service_types() -> None:
    assert tuple(catalogue()) == (*RCM, *PARTNER, *SELF_SERVICE)
    for key, role in catalogue().items():
        expected = ("revserve", "revequip") if key in RCM else ("revequip",) if key in PARTNER else ("self_service",)
        assert role.service_types == expected
        assert role.user_type == (None if key in RCM else "partner")


def test_d4_assignable_roles() -> None:
    assignable = {key: role.assignable for key, role in catalogue().items() if role.assignable}
    assert assignable == {
        "practice_admin": RCM,
        "partner_admin": (*RCM, *PARTNER),
        "self_service_admin": SELF_SERVICE,
    }


def at_least(higher: str, lower: str) -> bool:
    roles = catalogue()
    return all(
        roles[higher].allows(area, level) or not roles[lower].allows(area, level)
        for area in areas()
        for level in LEVELS
    )


@pytest.mark.parametrize(
    ("higher", "lower"),
    [
        ("partner_csr_and_payment_poster", "partner_payment_poster"),
        ("self_service_ar_and_payments", "self_service_payment_poster"),
        ("front_office", "provider"),
        *(("self_service_admin", lower) for lower in SELF_SERVICE),
        *(("partner_admin", lower) for lower in (*RCM, *PARTNER)),
    ],
)
def test_p12_order(higher: str, lower: str) -> None:
    assert at_least(higher, lower)
    if higher != lower:
        assert not at_least(lower, higher), "the order is strict"


def test_p12_a_self_service_role_implies_partner() -> None:
    for role in catalogue().values():
        if "self_service" in role.service_types:
            assert role.user_type == "partner"


def test_d2_d3_full_access_and_balancing() -> None:
    full = {key for key, role in catalogue().items() if role.allows("payment_balancing_full_access", "view")}
    assert full == {"practice_admin", "partner_admin", "self_service_admin"}
    assert all(catalogue()[key].allows("payment_balancing", "view") for key in full)
    assert [key for key, role in catalogue().items() if role.limited_to_locations] == ["front_office_emr_restricted"]


@given(st.sampled_from(LEVELS), st.sampled_from(LEVELS))
def test_levels_are_a_chain_with_partial_beside_it(mine: str, asked: str) -> None:
    """U17, D9: none < view < add < edit; partial reads like view, and its own actions need partial or edit."""
    chain = ("none", "view", "add", "edit")
    if "partial" not in (mine, asked):
        assert Grant(mine).allows(asked) == (chain.index(mine) >= chain.index(asked))
    elif asked == "partial":
        assert Grant(mine).allows(asked) == (mine in ("partial", "edit"))
    else:
        assert Grant(mine).allows(asked) == (asked in ("none", "view"))


COMPANIES = tuple(UUID(int=number) for number in range(1, 6))
SERVICE_TYPES = dict(zip(COMPANIES, ("revserve", "revequip", "self_service", "revequip", "self_service"), strict=True))
some_companies = st.lists(st.sampled_from(COMPANIES), unique=True, max_size=4).map(tuple)
users = st.builds(
    User,
    id=st.just(UUID(int=99)),
    user_name=st.just("u"),
    first_name=st.just("A"),
    last_name=st.just("B"),
    email=st.just("a@b"),
    user_type=st.sampled_from(["partner", "customer"]),
    role=st.sampled_from([*catalogue(), "janitor"]),
    company_ids=some_companies,
    default_company_id=st.sampled_from([None, *COMPANIES]),
    active=st.booleans(),
)


@given(users)
def test_p12_who_passes_keeps_every_rule(user: User) -> None:
    role = catalogue().get(user.role)
    good = (
        role is not None
        and role.user_type in (None, user.user_type)
        and user.default_company_id in user.company_ids
        and (user.user_type == "partner" or len(user.company_ids) == 1)
        and all(SERVICE_TYPES[company] in role.service_types for company in user.company_ids)
    )
    if good:
        check_user(user, SERVICE_TYPES)
    else:
        with pytest.raises(Invalid) as refusal:
            check_user(user, SERVICE_TYPES)
        assert refusal.value.errors[0].field in {"role", "user_type", "company_ids", "default_company_id"}


@given(users, some_companies, st.lists(st.sampled_from(COMPANIES), max_size=3))
def test_an_editor_sees_nothing_beyond_his_companies(user: User, mine: tuple[UUID, ...], located: list[UUID]) -> None:
    grants = tuple(LocationGrant(company, UUID(int=company.int + 100)) for company in located)
    whole = User(**{**{name: getattr(user, name) for name in User.__slots__}, "locations": grants})
    seen = Editor(UUID(int=98), "partner_admin", frozenset(mine), mine[0] if mine else None).sees(whole)
    assert set(seen.company_ids) == set(user.company_ids) & set(mine)
    assert {grant.company_id for grant in seen.locations} <= set(mine)
    assert seen.default_company_id in (None, *mine)
    assert Editor(UUID(int=98), "operator", frozenset(), None).sees(whole) == whole


@given(some_companies, st.none() | some_companies)
def test_u7_a_customer_gets_the_active_company_or_nothing(
    mine: tuple[UUID, ...], requested: tuple[UUID, ...] | None
) -> None:
    active = mine[0] if mine else None
    editor = Editor(UUID(int=98), "practice_admin", frozenset(mine), active)
    try:
        got = requested_companies(editor, CUSTOMER, requested)
    except Invalid:
        assert requested not in (None, (active,))
    else:
        assert got == ((active,) if active else ())


@given(users, users)
def test_rights_and_administration_follow_the_user(before: User, after: User) -> None:
    changed = (before.user_type, before.role, before.active, set(before.company_ids)) != (
        *(after.user_type, after.role, after.active),
        set(after.company_ids),
    )
    assert rights_changed(before, after) == changed
    admins = {"practice_admin", "partner_admin", "self_service_admin"}
    expected = set(before.company_ids) if before.active and before.role in admins else set()
    assert administered_companies(before) == expected
