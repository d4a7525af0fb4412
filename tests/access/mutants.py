"""Takes one check away at a time, so that tests can show that they would notice."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

import pytest
from asyncpg.connection import Connection

from services.identity.service.access import CurrentVerifier
from services.identity.store import access
from shared.access import policy
from shared.access.principal import Guard, Principal
from shared.access.revocation import Revocations
from shared.access.tokens import TokenVerifier
from shared.db import acquire
from shared.web import Endpoint
from tests.access.oracle import BREAK_GLASS

_COMPANY: Final = re.compile(r"(?:\b\w+\.)?company_id = (\$\d+)(?:::uuid)?")
_READERS: Final = ("load_books", "charges_called", "charges_now", "load_charges", "read_payments")


@contextmanager
def guarded_by(endpoint: Endpoint, guard: Guard) -> Iterator[None]:
    """The endpoint under another guard; the router holds the very same object."""
    kept = endpoint.guard
    object.__setattr__(endpoint, "guard", guard)
    try:
        yield
    finally:
        object.__setattr__(endpoint, "guard", kept)


@contextmanager
def stale_versions_pass() -> Iterator[None]:
    """Nobody asks whether a token is older than its holder's rights: what was heard is not looked at, and to identity
    every version is the newest."""

    async def newest(self: CurrentVerifier, token: str) -> Principal:
        principal = await TokenVerifier.verify(self, token)
        async with acquire(self._pool()) as connection:
            version = await access.current_version(connection, principal.subject)
        return principal if version is None else replace(principal, authz_version=version)

    async def believed(*_: object) -> None:
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CurrentVerifier, "verify", newest)
        patch.setattr(Revocations, "check", believed)
        yield


@contextmanager
def break_glass_may_write() -> Iterator[None]:
    """Whoever comes in an emergency may do everything."""
    everything = dict.fromkeys(policy.areas(), policy.Grant("edit", "all_locations"))
    able = replace(policy.break_glass(), grants=everything)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "break_glass", lambda: able)
        yield


def newly_open(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """What break-glass may call with that mutant, and else may not."""
    caller = Principal(uuid4(), "c", "u", "operator", BREAK_GLASS, "practice", uuid4(), "*", 1, "t", 1 << 33)
    closed = [one for one in endpoints if not one.guard.public and not one.guard.admits(caller)]
    with break_glass_may_write():
        return [one for one in closed if one.guard.admits(caller)]


@contextmanager
def without_company_conditions() -> Iterator[None]:
    """The first fence down: what is read for a caller is asked of every company."""
    execute = Connection._execute

    async def asked_of_all(self: Any, query: str, *arguments: Any, **more: Any) -> Any:
        if (self._params.server_settings or {}).get("role", "").endswith("_reader"):
            query = _COMPANY.sub(r"\1::uuid is not null", query)
        return await execute(self, query, *arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "_execute", asked_of_all)
        yield


@asynccontextmanager
async def without_company_joins(owner: Any) -> AsyncIterator[None]:
    """The same for the ledger's functions that read documents: they find a foreign id, and take it for the caller's."""
    kept = [
        row["text"]
        for row in await owner.fetch(
            "select pg_get_functiondef(oid) as text from pg_proc where proname = any ($1)", _READERS
        )
    ]
    for text in kept:
        changed = re.sub(r"\b\w+\.company_id = ([wx])\.c(\s+and)?", lambda m: "" if m[2] else "true", text)
        changed = re.sub(r"'(payer|physician)', p\.company_id", r"'\1', w.c", changed)
        source = "x" if "p.company_id = x.c" in text else "w"
        changed = changed.replace("'patient', p.company_id", f"'patient', {source}.c")
        changed = re.sub(
            r"select [hp]\.company_id, ([hp])\.(charge|payment)_id, \1\.version",
            r"select w.c, \1.\2_id, \1.version",
            changed,
        )
        assert changed != text
        await owner.execute(changed)
    try:
        yield
    finally:
        for text in kept:
            await owner.execute(text)


@asynccontextmanager
async def without_policies(owner: Any) -> AsyncIterator[None]:
    """The second fence down: no table asks who reads."""
    tables = [row["name"] for row in await owner.fetch("select relname as name from pg_class where relrowsecurity")]
    assert tables
    for name in tables:
        await owner.execute(f'alter table "{name}" disable row level security')
    try:
        yield
    finally:
        for name in tables:
            await owner.execute(f'alter table "{name}" enable row level security')
