"""Lines of one large remittance posted end to end, against the driver's COPY of the same rows.

The product keeps the file, surveys it, finds every line's charge, applies and adjusts it, and writes postings, events,
keys and what became of the claims. The floor is given the rows that came of that, and copies them into empty tables
like ours: the same columns, checks, indexes and proofs of what a row refers to. A second floor proves no references.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, Final
from uuid import UUID, uuid4

import asyncpg

from bench.rounds import Result, measure_against
from services.ledger.feeds import intake, remittances
from services.ledger.feeds.intake import Feed
from services.ledger.feeds.spooled import PIECE, Spooled
from services.ledger.service import Ledger
from services.ledger.store import MIGRATIONS, ROLE
from shared.db import KEYED_PLANS, create_pool
from shared.directory import Directory
from shared.ids import uuid7
from shared.migrate import migrate
from shared.process import calm_collector

LINES: Final = int(os.environ.get("BENCH_LINES", "100000"))
"""As the goal (0.30) is meant."""
_LINES_A_CLAIM: Final = 4
_ROUNDS: Final = 11
"""Single rounds differ by a third."""
_TABLES: Final = (
    "posting",
    "payment",
    "payment_revision",
    "transfer",
    "idempotency",
    "remittance",
    "remittance_line",
    "event",
    "feed",
    "feed_chunk",
    "feed_item",
    "claim",
    "claim_state",
)
_CHARGES = """
with made as (
    select n, gen_random_uuid() as charge_id, p.patient_id, n % 4 as line
    from generate_series(0, $4::integer - 1) as n
    join patient p on p.company_id = $1 and p.account_number = 'PT-' || n / 4
), words as (
    insert into charge (company_id, charge_id, version, posted_at, source, poster_id)
    select $1, charge_id, 1, now(), 'manual', $1 from made
), revisions as (
    insert into charge_revision
    select $1, charge_id, 1, 'active', patient_id, $2, $3, date '2026-01-05' + line, '97110', '{GP}', 1, '{M54.5}',
        12000
    from made
)
insert into transfer select $1, 1, n, 'receivable_payer', 'revenue', '', charge_id, null, 12000 from made
"""
_REFERENCES: Final = """
select conrelid::regclass::text as table, pg_get_constraintdef(oid) as clause
from pg_constraint where contype = 'f' and conrelid = any ($1::text[]::regclass[])
"""
_PROOFS: Final = """
select tgrelid::regclass::text as table, tgname as name, tgfoid::regproc::text as function
from pg_trigger where not tgisinternal and tgrelid = any ($1::text[]::regclass[])
"""
_APPLIED: Final = "select count(*) from remittance_line where company_id = $1"


def remittance(lines: int, trace: str) -> Iterator[bytes]:
    """One ST of so many lines, four to a claim, each paid 100.00 of 120.00; never held as a whole."""
    claims = lines // _LINES_A_CLAIM
    head = (
        "ISA*00*          *00*          *ZZ*PAYERID        *ZZ*PTCLINIC       *260115*0830*^*00501*000000101*0*T*:~\n"
        "GS*HP*PAYERID*PTCLINIC*20260115*0830*1*X*005010X221A1~\nST*835*0001~\n"
        f"BPR*I*{claims * 4 * 100}*C*ACH************20260115~\nTRN*1*{trace}*1512345678~\nDTM*405*20260115~\n"
        "N1*PR*EXAMPLE HEALTH PLAN*XV*12345~\nN1*PE*EXAMPLE PHYSICAL THERAPY LLC*XX*1234567893~\nLX*1~\n"
    )
    yield head.encode()
    body = (
        "CLP*PT-{n}*1*480*400**12*ICN-PT-{n}*11*1~\nNM1*QC*1*DOE*PAT****MI*MBR000123~\nDTM*232*20260105~\n"
        + "".join(
            f"SVC*HC:97110:GP*120*100**1~\nDTM*472*2026010{5 + line}~\nCAS*CO*45*20~\nREF*6R*L{{n}}-{line}~\n"
            for line in range(_LINES_A_CLAIM)
        )
    )
    for start in range(0, claims, 500):
        yield "".join(body.format(n=n) for n in range(start, min(claims, start + 500))).encode()
    count = 8 + claims * (3 + 4 * _LINES_A_CLAIM)
    yield f"SE*{count}*0001~\nGE*1*1~\nIEA*1*000000101~\n".encode()


async def prepare_company(connection: asyncpg.Connection, lines: int) -> UUID:
    """Books with a charge for every line, put there without the ledger."""
    company, location, payer = uuid7(), uuid7(), uuid7()
    await connection.execute(
        "insert into directory_company values ($1, 1, $2, 'Bench', 'revequip', 'UTC', 'deposit_date', '{}', true)",
        company,
        f"R{company.hex[-12:]}",
    )
    await connection.execute(
        "insert into directory_location values ($1, $2, 1, 'L', 'Main', null, true)", company, location
    )
    await connection.execute("insert into company_book (company_id, version) values ($1, 1)", company)
    await connection.execute(
        "insert into payer values ($1, $2, 'P', 'Example Health Plan', null, '{12345}', 0)", company, payer
    )
    await connection.execute(
        "insert into patient select $1, gen_random_uuid(), 'PT-' || n, 'Pat', 'Doe', '1980-01-01', null, 0"
        " from generate_series(0, $2::integer) as n",
        company,
        lines // _LINES_A_CLAIM,
    )
    await connection.execute(_CHARGES, company, location, payer, lines)
    return company


class _Away(Directory):
    """No identity: everything that is needed is in the directory already."""

    def __init__(self) -> None:
        pass

    async def catch_up(self) -> None:
        return


async def post(ledger: Ledger, company: UUID, spool: BinaryIO, size: int) -> Feed:
    """What an upload does, from the spooled body to the finished feed."""
    feed = Feed(company, uuid7(), "x12", "era")
    found = await remittances.examine(Spooled.of(spool))
    await intake.open_feed(ledger.pool, feed, channel="http", sender="bench", body_hash=None, byte_count=size)
    spool.seek(0)
    number = 0
    while piece := await asyncio.to_thread(spool.read, PIECE):
        await intake.add_chunk(ledger.pool, feed, number, piece)
        number += 1
    await remittances.process(ledger, feed, Spooled.of(spool), str(uuid4()), found)
    return feed


def spooled(lines: int, trace: str) -> tuple[BinaryIO, int]:
    """The remittance in a temporary file, and how long it is."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    size = sum(spool.write(chunk) for chunk in remittance(lines, trace))
    return spool, size


def remittances_posted(dsn: str) -> list[Result]:
    """The ratios of lines per second, in a process set up as ours are."""
    calm_collector()
    with asyncio.Runner() as runner:
        runner.run(migrate(dsn, MIGRATIONS))
        pool = runner.run(create_pool(dsn, name="bench", role=ROLE, size=4, settings=KEYED_PLANS))
        owner = runner.run(asyncpg.connect(dsn))
        ledger = Ledger(pool, _Away())
        runner.run(_prepare_floors(owner))
        copied: dict[str, list[tuple[object, ...]]] = {}

        def product() -> float:
            company = runner.run(prepare_company(owner, LINES))
            spool, size = spooled(LINES, f"T{uuid4().hex}")
            with spool:
                started = time.perf_counter()
                runner.run(post(ledger, company, spool, size))
                seconds = time.perf_counter() - started
            applied = runner.run(owner.fetchval(_APPLIED, company))
            assert applied == LINES, f"{applied} of {LINES} lines were applied"
            if not copied:
                copied.update(runner.run(_rows_of(owner, company)))
            return LINES / seconds

        def floor(schema: str) -> float:
            if not copied:
                product()
            runner.run(owner.execute("truncate " + ", ".join(f"{schema}.{table}" for table in _TABLES)))
            started = time.perf_counter()
            runner.run(_copy(owner, schema, copied))
            return LINES / (time.perf_counter() - started)

        floors = {
            "remittance_lines": partial(floor, "like_ours"),
            "remittance_lines, floor without references": partial(floor, "bare"),
        }
        results = measure_against(floors, product, rounds=_ROUNDS)
        runner.run(pool.close())
        runner.run(owner.close())
        return results


async def _prepare_floors(owner: asyncpg.Connection) -> None:
    """The tables once more, in a schema of each floor. What they refer to is looked for in that schema first."""
    for schema in ("like_ours", "bare"):
        await owner.execute(f"create schema {schema}")
        for table in _TABLES:
            await owner.execute(f"create table {schema}.{table} (like {table} including all excluding identity)")
    references, proofs = await owner.fetch(_REFERENCES, _TABLES), await owner.fetch(_PROOFS, _TABLES)
    await owner.execute("set search_path to like_ours, public")
    for table, clause in references:
        await owner.execute(f"alter table {table} add {clause}")
    for table, name, function in proofs:
        await owner.execute(
            f"create trigger {name} after insert on {table} referencing new table as added"
            f" for each statement execute function public.{function}()"
        )
    await owner.execute("reset search_path")


async def _rows_of(owner: asyncpg.Connection, company: UUID) -> dict[str, list[tuple[object, ...]]]:
    """What one remittance came to, table by table."""
    found: dict[str, list[tuple[object, ...]]] = {}
    for table in _TABLES:
        since = " and version > 1" if table in ("posting", "transfer") else ""
        query = f"select * from {table} where company_id = $1{since}"  # noqa: S608 - names of our own
        found[table] = [tuple(row) for row in await owner.fetch(query, company)]
    return found


async def _copy(owner: asyncpg.Connection, schema: str, rows: dict[str, list[tuple[object, ...]]]) -> None:
    async with owner.transaction():
        for table, records in rows.items():
            await owner.copy_records_to_table(table, schema_name=schema, records=records)
