"""Users: who they are, what type and role they have, and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from services.identity import domain
from services.identity.domain import CUSTOMER, Company, Editor, Location, User
from services.identity.explain import refusals
from services.identity.passwords import Hasher
from services.identity.service.acts import Act, administration, changed_fields, current_editor
from services.identity.service.password_rules import PasswordRules, names_around
from services.identity.service.persons import person
from services.identity.store import companies as company_store
from services.identity.store import factors, sessions
from services.identity.store import users as store
from shared.access.policy import OPERATOR
from shared.access.principal import Principal
from shared.db import Connection, acquire
from shared.errors import FieldError, Invalid, NotFound
from shared.ids import uuid7


@dataclass(frozen=True, slots=True)
class Access:
    """A user with what decides what he sees: companies, EMR locations, whether he has a second factor; and a role that
    is previewed, with why it is refused."""

    user: User
    companies: Sequence[Company]
    locations: Sequence[Location]
    has_factor: bool
    preview: str | None = None
    refusals: tuple[FieldError, ...] = ()


class Users:
    """Administrators see the members of the company they are in, and of those only what they share (U5)."""

    def __init__(self, pool: asyncpg.Pool, hasher: Hasher, rules: PasswordRules) -> None:
        self._pool = pool
        self._hasher = hasher
        self._rules = rules

    async def list(self, caller: Principal, after: UUID | None, limit: int) -> Sequence[User]:
        async with acquire(self._pool) as connection:
            editor = await current_editor(connection, caller)
            company_id = None if editor.is_operator else caller.company
            return [editor.sees(user) for user in await store.list_users(connection, company_id, after, limit)]

    async def get(self, caller: Principal, user_id: UUID) -> User:
        async with acquire(self._pool) as connection:
            editor = await current_editor(connection, caller)
            return editor.sees(await member(connection, editor, user_id))

    async def access(self, caller: Principal, user_id: UUID, preview_role: str | None) -> Access:
        """What the user has, and what another role would change. Raises NotFound, Invalid for an unknown role."""
        async with acquire(self._pool) as connection:
            editor = await current_editor(connection, caller)
            whole = await member(connection, editor, user_id)
            user = editor.sees(whole)
            companies = await company_store.companies(connection, user.company_ids)
            locations = await company_store.locations(connection, user.emr_location_ids)
            has_factor = (await factors.factors(connection, user.id)).any
            if preview_role is None:
                return Access(user, list(companies.values()), locations, has_factor)
            domain.known_role(preview_role)
            refused = await _refusals(connection, editor, whole, preview_role)
        return Access(user, list(companies.values()), locations, has_factor, preview_role, refused)

    async def viewers(
        self, caller: Principal, company_id: UUID, location_id: UUID, after: UUID | None, limit: int
    ) -> Sequence[User]:
        """Members of the location's company, of whom `explain.viewer` tells what they see. Raises NotFound."""
        async with acquire(self._pool) as connection:
            editor = await current_editor(connection, caller)
            location = await company_store.location(connection, company_id, location_id)
            if location is None or not (editor.is_operator or editor.active_company_id == company_id):
                raise NotFound()
            return await store.list_users(connection, company_id, after, limit)

    async def create(
        self, caller: Principal, fields: Mapping[str, Any], password: str | None, *, initial: bool = False
    ) -> User:
        """`fields` are the user's, as the body gave them; `initial`: the password only serves to choose another. Raises
        Invalid (naming the field) and Forbidden."""
        until = _initial_until(password, initial=initial)
        encoded = await self._encode(caller, password, fields)
        given = dict(fields)
        location_ids = given.pop("emr_location_ids", ())
        async with administration(self._pool, caller) as act:
            editor = await current_editor(act.connection, caller)
            company_ids = domain.requested_companies(editor, given["user_type"], given.pop("company_ids", None))
            default = given.pop("default_company_id", None) or next(iter(company_ids), None)
            user = User(id=uuid7(), company_ids=company_ids, default_company_id=default, **given)
            user = await _checked(act.connection, editor, None, user, location_ids, new_password=password is not None)
            await store.insert_user(act.connection, user, encoded, until)
            await act.publish_user(user)
            await act.audit("user_created", user.id, user.company_ids)
        return editor.sees(user)

    async def change(
        self,
        caller: Principal,
        user_id: UUID,
        fields: Mapping[str, Any],
        password: str | None,
        *,
        initial: bool = False,
    ) -> User:
        """Only the fields given change. Raises NotFound, Invalid (naming the field) and Forbidden."""
        until = _initial_until(password, initial=initial)
        known = await self.get(caller, user_id)
        encoded = await self._encode(caller, password, {**_own(known), **fields})
        given = dict(fields)
        location_ids = given.pop("emr_location_ids", None)
        async with administration(self._pool, caller) as act:
            editor = await current_editor(act.connection, caller)
            before = await member(act.connection, editor, user_id)
            after = _changed(editor, before, given)
            new_password = encoded is not None
            after = await _checked(act.connection, editor, before, after, location_ids, new_password=new_password)
            await _keep_administrators(act.connection, before, after)
            if new_password or domain.sign_in_changed(before, after):
                (await person(act.connection, caller)).require_recent()
            if after != before:
                after = replace(after, version=before.version + 1)
                await store.update_user(act.connection, before, after)
                await act.publish_user(after)
            if encoded is not None:
                await store.set_password(act.connection, user_id, encoded, until)
            if encoded is not None or domain.rights_changed(before, after) or domain.sign_in_changed(before, after):
                # A reset code is for the user as he was: it may be with somebody who could not give one to him now.
                await factors.drop_reset(act.connection, user_id)
            signed_out = await _unlinked(act, before, after) or encoded is not None
            if signed_out or domain.rights_changed(before, after):
                after = replace(after, authz_version=await act.withdraw_tokens(user_id))
            if signed_out or not after.active:
                await sessions.end_sessions(act.connection, user_id)
            await _audit_change(act, before, after, encoded is not None)
        return editor.sees(after)

    async def _encode(self, caller: Principal, password: str | None, fields: Mapping[str, Any]) -> str | None:
        """The hash, if the password may be that of the user with these fields."""
        if password is None:
            return None
        async with acquire(self._pool) as connection:
            editor = await current_editor(connection, caller)
            # Of companies that the editor does not have, not even a refusal may tell the name.
            mine = filter(editor.may_grant, fields.get("company_ids") or filter(None, [caller.company_id]))
            names = await names_around(connection, [fields[name] for name in domain.OWN_NAMES], mine)
        return await self._hasher.hash(await self._rules.check(password, names))


def _initial_until(password: str | None, *, initial: bool) -> datetime | None:
    if not initial:
        return None
    if password is None:
        raise Invalid.field("must_change_password", "needs_password", "Only together with a password")
    return datetime.now(UTC) + domain.INITIAL


def _own(user: User) -> dict[str, Any]:
    return {name: getattr(user, name) for name in (*domain.OWN_NAMES, "company_ids")}


def _changed(editor: Editor, before: User, given: dict[str, Any]) -> User:
    """The user with what the body gave. Companies that the editor does not have stay as they are, unseen."""
    wanted = given.pop("company_ids", None)
    after = replace(before, **given)
    if wanted is not None:
        hidden = [company_id for company_id in before.company_ids if not editor.may_grant(company_id)]
        company_ids = {*hidden, *domain.requested_companies(editor, after.user_type, wanted)}
        after = replace(after, company_ids=tuple(sorted(company_ids)))
    if "default_company_id" in given and not editor.may_grant(given["default_company_id"]):
        raise Invalid.field("default_company_id", "not_granted", "The default must be one of the user's companies")
    if after.user_type == CUSTOMER and "default_company_id" not in given:
        after = replace(after, default_company_id=next(iter(after.company_ids), None))
    return after


async def _checked(
    connection: Connection,
    editor: Editor,
    before: User | None,
    after: User,
    location_ids: Iterable[UUID] | None,
    *,
    new_password: bool,
) -> User:
    """The user with his location grants, if every rule allows him. An unknown company or location and a foreign one
    are refused alike (D11)."""
    companies = await company_store.companies(connection, after.company_ids)
    mine = set(before.company_ids if before else ())
    if any(c not in mine and (c not in companies or not editor.may_grant(c)) for c in after.company_ids):
        raise Invalid.field("company_ids", "unknown_company", "There is no such company among yours")
    domain.check_authority(editor, before, after, new_password=new_password)
    domain.check_user(after, _service_types(companies))
    kept = [grant for grant in after.locations if grant.company_id in after.company_ids]
    if location_ids is not None:
        wanted = set(location_ids)
        seen = [company_id for company_id in after.company_ids if editor.may_grant(company_id)]
        found = await company_store.location_grants(connection, wanted, seen)
        if len(found) != len(wanted):
            raise Invalid.field("emr_location_ids", "unknown_location", "No such location in the user's companies")
        domain.check_locations(found)
        kept = [grant for grant in kept if not editor.may_grant(grant.company_id)] + list(found)
    return replace(after, locations=tuple(sorted(kept, key=lambda grant: grant.location_id)))


async def _keep_administrators(connection: Connection, before: User, after: User) -> None:
    """D4: nobody takes the last active administrator from a company."""
    left = domain.administered_companies(before) - domain.administered_companies(after)
    roles = domain.administrator_roles()
    if left - await store.companies_with_other_administrators(connection, left, roles, before.id):
        raise domain.last_administrator(before, after)


async def _unlinked(act: Act, before: User, after: User) -> bool:
    """With another address the link goes that a provider's subject got by the old one: who that was is in doubt."""
    if before.email.lower() == after.email.lower() or not await factors.unlink(act.connection, after.id):
        return False
    await act.audit("external_login_unlinked", after.id, after.company_ids)
    return True


async def _refusals(connection: Connection, editor: Editor, user: User, role: str) -> tuple[FieldError, ...]:
    """Why the user cannot be given the role by the editor, as `change` would say it."""
    every = await company_store.companies(connection, user.company_ids)
    found = refusals(editor, user, role, _service_types(every))
    if found and editor.sees(user) != user:
        return found
    try:
        await _keep_administrators(connection, user, replace(user, role=role))
    except Invalid as error:
        return (*found, *error.errors)
    return found


async def _audit_change(act: Act, before: User, after: User, new_password: bool) -> None:
    changed = [name for name in changed_fields(before, after) if name not in ("version", "authz_version")]
    changed += ["password"] if new_password else []
    if changed:
        await act.audit("user_changed", after.id, (*before.company_ids, *after.company_ids), changed)


def _service_types(companies: Mapping[UUID, Company]) -> dict[UUID, str]:
    return {company.id: company.service_type for company in companies.values()}


async def member(connection: Connection, editor: Editor, user_id: UUID) -> User:
    """A user of the editor's active company; for the operator any user. The operator himself is nobody's to change."""
    found = await store.user(connection, user_id)
    if found is None or found.role == OPERATOR:
        raise NotFound()
    if not editor.is_operator and editor.active_company_id not in found.company_ids:
        raise NotFound()
    return found
