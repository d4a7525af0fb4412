"""The sealed chains (quality 3.5): every manipulation by the owner of the database is found, and where."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr

from services.ledger.audit import SEALING
from shared.config import Config
from shared.crash import POINTS
from shared.db import create_pool
from shared.ids import uuid7
from shared.seal import NOTHING_BEFORE, Head, Seal, digest, seal, seal_all
from shared.seal_heads import BadHead, HeadFile, heads_path, keys_path, public_keys, read
from tests.support.databases import Databases
from tests.support.ledger import Company, LedgerStack
from tests.support.owners import ROOT
from tests.support.sealed import findings, kept, sealed

SEAL_POINTS = [name for name in POINTS if name.startswith("seal.")]


@pytest.fixture
async def stack(databases: Databases) -> AsyncIterator[LedgerStack]:
    async with LedgerStack.fresh(databases) as running:
        yield running


async def filled(stack: LedgerStack, entries: int = 6) -> Company:
    """A company with postings, and with entries in the audit."""
    company = await stack.company()
    patient = await company.patient()
    charge = await company.charge(patient)
    applied = [{"charge_id": charge["id"], "amount_cents": 4_000}]
    payment = await company.payment(patient_id=patient["id"], applications=applied)
    for _ in range(entries):
        await company.get(f"/v1/payments/{payment['id']}")
    await written(stack, company, entries)
    return company


async def pay(company: Company) -> None:
    """Without a read by HTTP: its entry in the audit would be written at a time of its own."""
    find = "select patient_id from patient where company_id = $1 order by 1 limit 1"
    patient_id = await company.stack.owner.fetchval(find, company.company_id)
    await company.payment(patient_id=str(patient_id or (await company.patient())["id"]))


async def written(stack: LedgerStack, company: Company, entries: int) -> None:
    async with asyncio.timeout(10):
        while await stack.owner.fetchval(_ENTRIES, company.company_id) < entries:
            await asyncio.sleep(0.02)


_ENTRIES = "select count(*) from audit where company_ids @> array[$1::uuid]"
_SEALS = "select * from audit_seal where company_id = $1 order by seq"


async def heads_of(stack: LedgerStack, company: Company) -> Head:
    row = (await stack.owner.fetch(_SEALS, company.company_id))[-1]
    return Head(company.company_id, row["seq"], row["hash"])


async def test_a_chain_is_what_its_documentation_says(stack: LedgerStack) -> None:
    """Computed here from the rows alone: a bug on both sides would not show in the verifier."""
    company = await filled(stack)
    assert await sealed(stack.dsn) >= 9
    seals = await stack.owner.fetch(_SEALS, company.company_id)
    assert [row["seq"] for row in seals] == list(range(1, len(seals) + 1))
    assert {row["kind"] for row in seals} == {"posting", "audit"}
    before = NOTHING_BEFORE
    for row in seals:
        text = (
            f'{{"company_id":"{row["company_id"]}","kind":"{row["kind"]}","prev_hash":"{before.hex()}",'
            f'"ref":"{row["ref"]}","row_hash":"{row["row_hash"].hex()}","seq":{row["seq"]}}}'
        )
        before = hashlib.sha256(text.encode()).digest()
        assert row["hash"] == before
    assert await findings(stack.dsn) == {}
    assert await sealed(stack.dsn) == 0
    assert await stack.owner.fetchval("select count(*) from audit_unsealed") == 0


_TWO_ENTRIES = "select ref from audit_seal where company_id = $1 and kind = 'audit' order by seq offset 2 limit 2"
TAMPERING = {
    "altered entry": ("update audit set actor_name = 'somebody else' where id = ({ref})", "altered"),
    "altered details": ("update audit set details = '{{\"rows\": 1}}' where id = ({ref})", "altered"),
    "altered time": ("update audit set at = at + interval '1 microsecond' where id = ({ref})", "altered"),
    "deleted entry": ("delete from audit where id = ({ref})", "removed"),
    "inserted entry": (
        "insert into audit select '{new}', at, action, actor_id, actor_name, subject_id, company_ids from audit"
        " where id = ({ref})",
        "inserted",
    ),
    "swapped entries": (
        "update audit a set (actor_name, subject_id, at) = (select b.actor_name, b.subject_id, b.at from audit b"
        " where b.id = case a.id when ({ref}) then ({next}) else ({ref}) end) where a.id in (({ref}), ({next}))",
        "altered",
    ),
    "swapped seals": (
        "update audit_seal a set (ref, row_hash) = (select b.ref, b.row_hash from audit_seal b"
        " where b.company_id = a.company_id and b.seq = 5 - a.seq)"
        " where a.company_id = '{company}' and a.seq in (2, 3)",
        "altered",
    ),
    "deleted seal": ("delete from audit_seal where company_id = '{company}' and seq = 3", "removed"),
    "deleted first seals": ("delete from audit_seal where company_id = '{company}' and seq < 3", "removed"),
    "one cent": (
        "update transfer set amount_cents = amount_cents + 1 where company_id = '{company}' and version ="
        " (select max(version) from transfer where company_id = '{company}') and ordinal = 1",
        "altered",
    ),
    "another's posting": (
        "update posting set actor_id = '{new}' where company_id = '{company}' and version = 2",
        "altered",
    ),
    "altered event": (
        "update event set payload = payload || ' ' where company_id = '{company}' and version = 2",
        "altered",
    ),
    "inserted transfer": (
        "insert into transfer (company_id, version, ordinal, debit, credit, amount_cents)"
        " values ('{company}', 900, 1, 'cash', 'unapplied', 1)",
        "inserted",
    ),
    "inserted posting": (
        "insert into posting select company_id, 900, '{new}', kind, actor_id, correlation_id, posted_at, posting_date"
        " from posting where company_id = '{company}' limit 1",
        "inserted",
    ),
}


@pytest.mark.parametrize("name", TAMPERING)
async def test_tampering_is_found_and_located(stack: LedgerStack, name: str) -> None:
    """By the owner of everything; nothing is said of the company beside it."""
    statement, word = TAMPERING[name]
    company, bystander = await filled(stack), await filled(stack)
    await sealed(stack.dsn)
    ref, following = [str(row["ref"]) for row in await stack.owner.fetch(_TWO_ENTRIES, company.company_id)]
    text = statement.format(ref=f"'{ref}'::uuid", next=f"'{following}'::uuid", company=company.company_id, new=uuid7())
    if name == "swapped seals":
        await stack.owner.execute("alter table audit_seal drop constraint audit_seal_kind_ref_company_id_key")
    assert await findings(stack.dsn) == {}
    assert (await stack.owner.execute(text)).split()[-1] != "0"
    found = await findings(stack.dsn)
    assert set(found) == {company.company_id}
    place = found[company.company_id]
    assert place.what.startswith(word), place
    if "entr" in name and "inserted" not in name:
        seq = await stack.owner.fetchval(
            "select min(seq) from audit_seal where ref in ($1, $2)", ref, following if "swapped" in name else ref
        )
        assert (place.seq, place.ref) == (seq, f"audit {ref}")
    if "seal" in name:
        assert place.seq in (2, 3, 4)
    assert bystander.company_id not in found


async def test_a_truncated_tail_and_an_older_database_are_found_by_the_heads(
    stack: LedgerStack, databases: Databases, tmp_path: Path
) -> None:
    company = await filled(stack)
    await sealed(stack.dsn, keeper=_keeper(tmp_path))
    early = await heads_of(stack, company)
    await pay(company)
    await sealed(stack.dsn, keeper=_keeper(tmp_path))
    late = await heads_of(stack, company)
    heads = kept(tmp_path)
    assert [head for head in heads if head.company_id == company.company_id] == [early, late]
    assert await findings(stack.dsn, heads=heads) == {}
    # All that the newest seals tell of is taken away: the chain that is left is whole.
    await stack.owner.execute(
        "delete from audit_seal where company_id = $1 and seq > $2", company.company_id, early.seq
    )
    version = await stack.owner.fetchval("select max(version) from event where company_id = $1", company.company_id)
    for table in ("outbox", "event", "transfer", "posting"):
        column = "first_version" if table == "outbox" else "version"
        await stack.owner.execute(
            f"delete from {table} where company_id = $1 and {column} = $2", company.company_id, version
        )
    await stack.owner.execute(
        "update seal_progress set version = $2 where company_id = $1", company.company_id, version - 1
    )
    await stack.owner.execute(
        "update company_book set version = $2 where company_id = $1", company.company_id, version - 1
    )
    assert await findings(stack.dsn) == {}
    found = (await findings(stack.dsn, heads=heads))[company.company_id]
    assert (found.seq, found.what.split(",")[0]) == (early.seq + 1, "cut off")
    # And a chain that goes on from there as if nothing had been is another chain.
    await pay(company)
    await pay(company)
    await sealed(stack.dsn)
    found = (await findings(stack.dsn, heads=heads))[company.company_id]
    assert (found.seq, found.what.split(":")[0]) == (late.seq, "rewritten")


async def test_a_chain_written_anew_is_found_by_the_heads(stack: LedgerStack, tmp_path: Path) -> None:
    """The work of somebody who may do everything in the database and knows how seals are made."""
    company = await filled(stack)
    await sealed(stack.dsn, keeper=_keeper(tmp_path))
    await stack.owner.execute("update audit set actor_name = 'somebody else'")
    await stack.owner.execute("truncate audit_seal, audit_unsealed, seal_progress")
    await stack.owner.execute("insert into audit_unsealed (audit_id) select id from audit order by id")
    await sealed(stack.dsn)
    assert await findings(stack.dsn) == {}
    assert company.company_id in await findings(stack.dsn, heads=kept(tmp_path))


def _keeper(directory: Path) -> HeadFile:
    keeper = HeadFile.of(Config(seal_dir=directory), "ledger")
    assert keeper is not None
    return keeper


async def test_forged_and_altered_heads_are_refused(stack: LedgerStack, tmp_path: Path) -> None:
    await filled(stack)
    await sealed(stack.dsn, keeper=_keeper(tmp_path))
    path = heads_path(tmp_path, "ledger")
    good = path.read_bytes()
    other = tmp_path / "other"
    await sealed(stack.dsn, keeper=_keeper(other))
    forged = heads_path(other, "ledger").read_bytes()
    header, payload, signature = good.splitlines()[0].split(b".")
    keys = public_keys(keys_path(tmp_path, "ledger"))
    for bad in (forged, b".".join((header, payload[:-4] + b"AAAA", signature)) + b"\n", b"{}\n", b"\xff\n"):
        path.write_bytes(good + bad)
        with pytest.raises(BadHead, match=f"line {good.count(bytes([10])) + 1} "):
            list(read(path, "ledger", keys))
    path.write_bytes(good)
    with pytest.raises(BadHead):
        list(read(path, "identity", keys))


async def test_a_renamed_file_is_begun_again_and_a_torn_line_is_taken_away(stack: LedgerStack, tmp_path: Path) -> None:
    company = await filled(stack)
    keeper = _keeper(tmp_path)
    await sealed(stack.dsn, keeper=keeper)
    path = heads_path(tmp_path, "ledger")
    first = kept(tmp_path)
    path.write_bytes(path.read_bytes() + b"eyJ")
    await pay(company)
    await sealed(stack.dsn, keeper=keeper)
    assert kept(tmp_path) == [*first, await heads_of(stack, company)]
    path.rename(tmp_path / "old")
    await pay(company)
    await sealed(stack.dsn, keeper=keeper)
    assert kept(tmp_path) == [await heads_of(stack, company)]
    assert (tmp_path / "ledger-key.pem").stat().st_mode & 0o077 == 0


@pytest.mark.fault
@pytest.mark.parametrize("place", SEAL_POINTS)
async def test_killed_at_any_point_it_seals_everything_once(stack: LedgerStack, tmp_path: Path, place: str) -> None:
    company = await filled(stack)
    command = [sys.executable, "-m", "tests.support.sealed", stack.dsn, str(tmp_path)]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env={**os.environ, "CRASH_AT": place}, capture_output=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    await sealed(stack.dsn, keeper=_keeper(tmp_path))
    assert kept(tmp_path)[-1] == await heads_of(stack, company)
    assert await findings(stack.dsn, heads=kept(tmp_path)) == {}
    seals = await stack.owner.fetch(_SEALS, company.company_id)
    events = await stack.owner.fetchval("select count(*) from event where company_id = $1", company.company_id)
    assert len(seals) == events + await stack.owner.fetchval(_ENTRIES, company.company_id)


async def test_several_sealers_while_there_is_work(stack: LedgerStack) -> None:
    """Each seal is made once, in one chain, whoever makes it."""
    companies = [await stack.company() for _ in range(3)]
    stop = asyncio.Event()

    async def work(company: Company) -> None:
        for _ in range(15):
            await pay(company)
            await company.get("/v1/payments")

    async def sealer() -> int:
        done = 0
        async with await create_pool(stack.dsn, name="tests", role=SEALING.role, size=1) as pool:
            while not stop.is_set():
                async with pool.acquire() as connection:
                    done += await seal(connection, SEALING.sources, limit=3)
                await asyncio.sleep(0)
            return done + await seal_all(pool, SEALING.sources)

    sealers = [asyncio.create_task(sealer()) for _ in range(3)]
    await asyncio.gather(*(work(company) for company in companies))
    for company in companies:
        await written(stack, company, 15)
    stop.set()
    total = sum(await asyncio.gather(*sealers)) + await sealed(stack.dsn)
    assert await findings(stack.dsn) == {}
    assert total == await stack.owner.fetchval("select count(*) from audit_seal") >= 3 * 30


async def test_no_role_may_change_what_is_written(stack: LedgerStack) -> None:
    for role in ("ledger_app", "ledger_reader"):
        async with await create_pool(stack.dsn, name="tests", role=role, size=1) as pool:
            for table in ("audit", "audit_seal"):
                for statement in (
                    f"update {table} set company_ids = null",
                    f"delete from {table}",
                    f"truncate {table}",
                ):
                    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedColumnError)):
                        await pool.execute(statement)
    rights = await stack.owner.fetch(
        "select grantee, privilege_type from information_schema.role_table_grants"
        " where table_name in ('audit', 'audit_seal') and privilege_type in ('UPDATE', 'DELETE', 'TRUNCATE')"
        " and grantee not in (select tableowner from pg_tables where tablename = 'audit')"
    )
    assert rights == []


async def test_the_command_says_what_and_ends_with_one(stack: LedgerStack, tmp_path: Path) -> None:
    company = await filled(stack)
    environment = {**os.environ, "LEDGER_DATABASE_URL": stack.dsn, "SEAL_DIR": str(tmp_path)}

    async def command(*arguments: str) -> tuple[int, list[Any]]:
        full = [sys.executable, "-m", "services.ledger", *arguments]
        done = await asyncio.to_thread(
            subprocess.run, full, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]

    code, (said,) = await command("seal")
    assert code == 0
    assert said["sealed"] >= 9
    code, (said,) = await command("verify-audit")
    assert (code, said["bad_companies"], said["heads"]) == (0, 0, str(heads_path(tmp_path, "ledger")))
    await stack.owner.execute("delete from audit_seal where company_id = $1 and seq > 2", company.company_id)
    await stack.owner.execute("update posting set kind = 'x' where company_id = $1 and version = 1", company.company_id)
    code, (place, said) = await command("verify-audit", "--heads", str(heads_path(tmp_path, "ledger")))
    assert (code, place["company_id"], place["seq"]) == (1, str(company.company_id), 1)
    assert place["found"].startswith("altered")
    assert (await command("verify-audit", "--heads", str(tmp_path / "absent")))[0] == 1


async def test_heads_that_are_gone_are_no_proof(
    stack: LedgerStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever cuts off a chain may cut off what remembers it: where heads are kept, none to compare with is a
    finding."""
    await filled(stack)
    config = Config(ledger_database_url=SecretStr(stack.dsn), seal_dir=tmp_path)

    async def verified(config: Config) -> tuple[bool, list[Any]]:
        capsys.readouterr()
        code: Any = 0
        try:
            await SEALING.verify(config)
        except SystemExit as error:
            code = error.code
        return code == 0, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    await SEALING.seal(config)
    good, (said,) = await verified(config)
    assert good
    assert said["heads_compared"] > 0
    path = heads_path(tmp_path, "ledger")
    path.write_bytes(b"")
    for _ in range(2):
        good, (place, said) = await verified(config)
        assert not good
        assert place["found"].startswith("the file of heads: ")
        assert said["heads_compared"] == 0
        path.unlink(missing_ok=True)
    assert (await verified(Config(ledger_database_url=SecretStr(stack.dsn))))[0], "nobody said that heads are kept"


async def test_memory_does_not_grow_with_the_chain(stack: LedgerStack) -> None:
    """The verifier holds a few hundred rows, whatever their number."""
    company = await filled(stack, 1)
    sizes = []
    for rows in (2_000, 18_000):
        await stack.owner.execute(
            "with entry as (insert into audit (id, at, action, actor_name, company_ids)"
            " select gen_random_uuid(), now(), 'test', 'x', array[$1::uuid] from generate_series(1, $2) returning id)"
            " insert into audit_unsealed (audit_id) select id from entry",
            company.company_id,
            rows,
        )
        await sealed(stack.dsn)
        tracemalloc.start()
        assert await findings(stack.dsn) == {}
        sizes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert sizes[1] < 2 * sizes[0]


def test_a_seal_depends_on_all_that_it_says() -> None:
    one = Seal(UUID(int=1), 1, "audit", "a", digest({"x": 1}), NOTHING_BEFORE)
    others = [
        Seal(UUID(int=2), 1, "audit", "a", digest({"x": 1}), NOTHING_BEFORE),
        Seal(UUID(int=1), 2, "audit", "a", digest({"x": 1}), NOTHING_BEFORE),
        Seal(UUID(int=1), 1, "posting", "a", digest({"x": 1}), NOTHING_BEFORE),
        Seal(UUID(int=1), 1, "audit", "b", digest({"x": 1}), NOTHING_BEFORE),
        Seal(UUID(int=1), 1, "audit", "a", digest({"x": "1"}), NOTHING_BEFORE),
        Seal(UUID(int=1), 1, "audit", "a", digest({"x": 1}), digest({})),
    ]
    assert len({one.hash, *(other.hash for other in others)}) == 7
