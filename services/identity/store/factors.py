"""Second factors and other ways to prove oneself: TOTP, recovery codes, passkeys, external providers, reset codes."""

# ruff: noqa: S608 -- what is put into statements is this module's own list of columns

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from services.identity.domain import CLOCKS
from shared.db import Connection, Record


@dataclass(frozen=True, slots=True)
class Factors:
    """What a person has enrolled. Recovery codes are no factor of their own."""

    totp: bool
    passkeys: int
    recovery_codes_left: int

    @property
    def any(self) -> bool:
        return self.totp or self.passkeys > 0


async def factors(connection: Connection, user_id: UUID) -> Factors:
    row = await connection.fetchrow(
        "select exists (select from totp where user_id = $1 and confirmed) as totp,"
        " (select count(*) from passkey where user_id = $1) as passkeys,"
        " (select count(*) from recovery_code where user_id = $1) as recovery_codes_left",
        user_id,
    )
    return Factors(**row) if row else Factors(totp=False, passkeys=0, recovery_codes_left=0)


async def save_totp(connection: Connection, user_id: UUID, sealed_secret: bytes) -> None:
    """Begin an enrolment, in place of one that was not confirmed."""
    await connection.execute(
        "insert into totp as t (user_id, sealed_secret) values ($1, $2) on conflict (user_id) do update"
        " set sealed_secret = excluded.sealed_secret, last_step = 0, created_at = now() where not t.confirmed",
        user_id,
        sealed_secret,
    )


async def totp_secret(connection: Connection, user_id: UUID, *, confirmed: bool) -> bytes | None:
    """The sealed secret, if there is one in this state."""
    found: bytes | None = await connection.fetchval(
        "select sealed_secret from totp where user_id = $1 and confirmed = $2", user_id, confirmed
    )
    return found


async def use_step(connection: Connection, user_id: UUID, sealed_secret: bytes, step: int) -> bool:
    """Accept a code of this time step, once: False when a code of it or of a later one was accepted before. It
    confirms an enrolment, too. Of several at once one wins, by the row's lock."""
    done = await connection.execute(
        "update totp set last_step = $3, confirmed = true where user_id = $1 and sealed_secret = $2 and last_step < $3",
        user_id,
        sealed_secret,
        step,
    )
    return done == "UPDATE 1"


async def remove_totp(connection: Connection, user_id: UUID) -> None:
    await connection.execute("delete from totp where user_id = $1", user_id)


async def sealed_secrets(connection: Connection) -> list[tuple[UUID, bytes]]:
    rows = await connection.fetch("select user_id, sealed_secret from totp")
    return [(row["user_id"], row["sealed_secret"]) for row in rows]


async def seal_again(connection: Connection, user_id: UUID, old: bytes, new: bytes) -> None:
    await connection.execute(
        "update totp set sealed_secret = $3 where user_id = $1 and sealed_secret = $2", user_id, old, new
    )


async def replace_recovery_codes(connection: Connection, user_id: UUID, hashes: Iterable[bytes]) -> None:
    await connection.execute("delete from recovery_code where user_id = $1", user_id)
    await connection.execute(
        "insert into recovery_code (user_id, code_hash) select $1::uuid, unnest($2::bytea[])", user_id, list(hashes)
    )


async def use_recovery_code(connection: Connection, user_id: UUID, code_hash: bytes) -> bool:
    """Use a code up; False when there is no such one, or no longer."""
    done = await connection.execute(
        "delete from recovery_code where user_id = $1 and code_hash = $2", user_id, code_hash
    )
    return done == "DELETE 1"


@dataclass(frozen=True, slots=True)
class Passkey:
    """A WebAuthn credential. `public_key` is the COSE key as the authenticator gave it."""

    id: UUID
    user_id: UUID
    credential_id: bytes
    public_key: bytes
    sign_count: int
    transports: tuple[str, ...]
    name: str
    created_at: datetime
    used_at: datetime | None = None


_PASSKEY: Final = "id, user_id, credential_id, public_key, sign_count, transports, name, created_at, used_at"


def _passkey(row: Record) -> Passkey:
    return Passkey(**{**row, "transports": tuple(row["transports"])})


async def passkeys(connection: Connection, user_id: UUID) -> list[Passkey]:
    rows = await connection.fetch(f"select {_PASSKEY} from passkey where user_id = $1 order by id", user_id)
    return [_passkey(row) for row in rows]


async def passkey(connection: Connection, credential_id: bytes) -> Passkey | None:
    row = await connection.fetchrow(f"select {_PASSKEY} from passkey where credential_id = $1", credential_id)
    return _passkey(row) if row else None


async def insert_passkey(connection: Connection, key: Passkey) -> bool:
    """False when the credential is registered already, with whomever."""
    done = await connection.execute(
        f"insert into passkey ({_PASSKEY}) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        " on conflict (credential_id) do nothing",
        key.id,
        key.user_id,
        key.credential_id,
        key.public_key,
        key.sign_count,
        key.transports,
        key.name,
        key.created_at,
        key.used_at,
    )
    return done == "INSERT 0 1"


async def count_up(connection: Connection, key_id: UUID, sign_count: int) -> bool:
    """Note a use. False when the counter has not risen: then somebody has a copy of the authenticator (WebAuthn
    section 6.1.1). Authenticators without a counter always say 0."""
    done = await connection.execute(
        "update passkey set sign_count = $2, used_at = now()"
        " where id = $1 and (sign_count < $2 or (sign_count = 0 and $2 = 0))",
        key_id,
        sign_count,
    )
    return done == "UPDATE 1"


async def remove_passkey(connection: Connection, user_id: UUID, key_id: UUID) -> bool:
    done = await connection.execute("delete from passkey where user_id = $1 and id = $2", user_id, key_id)
    return done == "DELETE 1"


async def remove_all(connection: Connection, user_id: UUID) -> None:
    """Everything but the password."""
    for table in ("totp", "recovery_code", "passkey", "external_login"):
        await connection.execute(f"delete from {table} where user_id = $1", user_id)


async def linked_user(connection: Connection, issuer: str, subject: str) -> UUID | None:
    found: UUID | None = await connection.fetchval(
        "select user_id from external_login where issuer = $1 and subject = $2", issuer, subject
    )
    return found


async def users_with_email(connection: Connection, email: str) -> list[UUID]:
    """Active users with this address, in whatever case; two are enough to know that it is not unique."""
    rows = await connection.fetch(
        'select id from app_user where lower(email collate "C") = lower($1 collate "C") and active limit 2', email
    )
    return [row["id"] for row in rows]


async def link(connection: Connection, issuer: str, subject: str, user_id: UUID) -> bool:
    """False when the subject is linked already, or the user to another subject."""
    done = await connection.execute(
        "insert into external_login (issuer, subject, user_id) values ($1, $2, $3) on conflict do nothing",
        issuer,
        subject,
        user_id,
    )
    return done == "INSERT 0 1"


async def unlink(connection: Connection, user_id: UUID) -> bool:
    """False when no subject of a provider was linked to the user."""
    return await connection.execute("delete from external_login where user_id = $1", user_id) != "DELETE 0"


async def save_reset(connection: Connection, user_id: UUID, code_hash: bytes, expires_at: datetime) -> None:
    """A new reset code, in place of an earlier one."""
    await connection.execute(
        "insert into password_reset (user_id, code_hash, expires_at) values ($1, $2, $3) on conflict (user_id)"
        " do update set code_hash = excluded.code_hash, expires_at = excluded.expires_at",
        user_id,
        code_hash,
        expires_at,
    )


async def reset_is_open(connection: Connection, user_id: UUID, code_hash: bytes) -> bool:
    found: bool = await connection.fetchval(
        "select exists (select from password_reset where user_id = $1 and code_hash = $2"
        " and expires_at > clock_timestamp())",
        user_id,
        code_hash,
    )
    return found


async def use_reset(connection: Connection, user_id: UUID, code_hash: bytes) -> bool:
    """Use a reset code up; False when it is not good, or no longer."""
    done = await connection.execute(
        "delete from password_reset where user_id = $1 and code_hash = $2 and expires_at > clock_timestamp()",
        user_id,
        code_hash,
    )
    return done == "DELETE 1"


async def drop_reset(connection: Connection, user_id: UUID) -> None:
    await connection.execute("delete from password_reset where user_id = $1", user_id)


async def use_ticket(connection: Connection, digest: bytes, expires_at: datetime) -> bool:
    """Whether this is the first use of a ticket."""
    done = await connection.execute(
        "insert into used_ticket (digest, expires_at) values ($1, $2) on conflict do nothing", digest, expires_at
    )
    return done == "INSERT 0 1"


async def forget_expired(connection: Connection) -> None:
    """Drop what has no meaning any more. A ticket's end is told by the clock of the process that is shown it, which may
    be behind the database's."""
    await connection.execute("delete from used_ticket where expires_at < clock_timestamp() - $1::interval", CLOCKS)
    await connection.execute("delete from password_reset where expires_at < clock_timestamp()")
