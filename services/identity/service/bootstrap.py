"""What must be there before the first request: signing keys, the operator, the services' own client."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import asyncpg

from services.identity.domain import INITIAL, Client, User, nfkc
from services.identity.passwords import Hasher
from services.identity.sealing import Sealer
from services.identity.service.acts import Act, administration
from services.identity.service.factors import seal_again
from services.identity.service.keys import ensure_keys
from services.identity.store import clients, factors, sessions, users
from services.identity.tokens import secret_hash
from shared.access.policy import OPERATOR
from shared.ids import uuid7

INTERNAL: Final = "internal"


async def bootstrap(
    pool: asyncpg.Pool,
    hasher: Hasher,
    sealer: Sealer,
    *,
    operator_password: str | None,
    internal_secret: str | None,
    say: Callable[[str], object],
) -> None:
    """Safe to repeat, and from several processes at once. `say` gets the operator's password when one is generated:
    when none is configured and there is no operator yet, or nobody has changed the generated one in time."""
    generated = None
    async with administration(pool) as act:
        await ensure_keys(act, sealer)
        await seal_again(act, sealer)
        if internal_secret is not None:
            client = Client(uuid7(), INTERNAL, INTERNAL, INTERNAL)
            await clients.save_client(act.connection, client, secret_hash(internal_secret))
        found = await users.user_by_name(act.connection, OPERATOR)
        if found is None:
            generated = None if operator_password else secrets.token_urlsafe(18)
            await _create_operator(
                act, await hasher.hash(nfkc(operator_password or generated or "")), _until(generated)
            )
        elif operator_password is None:
            until = await users.initial_until(act.connection, found[0].id)
            if until is not None and until <= datetime.now(UTC):
                generated = secrets.token_urlsafe(18)
                await users.set_password(act.connection, found[0].id, await hasher.hash(generated), _until(generated))
                await act.audit("user_changed", found[0].id, changed=["password"])
        elif not await hasher.verify(found[1], nfkc(operator_password)):
            await users.set_password(act.connection, found[0].id, await hasher.hash(nfkc(operator_password)))
            await act.withdraw_tokens(found[0].id)
            await sessions.end_sessions(act.connection, found[0].id)
            await act.audit("user_changed", found[0].id, changed=["password"])
    if generated:
        say(f"The password of the user `{OPERATOR}`, shown this once: {generated}")


async def reset_mfa(pool: asyncpg.Pool, user_name: str) -> bool:
    """For the operator, whom nobody administers, and for whoever is the last administrator; False for no such user."""
    async with administration(pool) as act:
        found = await users.user_by_name(act.connection, user_name)
        if found is None:
            return False
        await act.withdraw_tokens(found[0].id)
        await factors.remove_all(act.connection, found[0].id)
        await sessions.end_sessions(act.connection, found[0].id)
        await act.audit("mfa_reset", found[0].id, found[0].company_ids)
    return True


def _until(generated: str | None) -> datetime | None:
    return datetime.now(UTC) + INITIAL if generated else None


async def _create_operator(act: Act, password_hash: str, initial_until: datetime | None) -> None:
    operator = User(
        id=uuid7(),
        user_name=OPERATOR,
        first_name="Operator",
        last_name="",
        email="",
        user_type=OPERATOR,
        role=OPERATOR,
    )
    await users.insert_user(act.connection, operator, password_hash, initial_until)
    await act.publish_user(operator)
    await act.audit("user_created", operator.id)
