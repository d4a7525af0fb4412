"""Identity's event log and outbox: whole states, gapless, in commit order, append-only; the directory built from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from services.identity import relay
from services.identity.app import MIGRATIONS
from shared.access.policy import catalogue
from shared.bus import BILLING_EVENTS, Message, Outcome, Subscription
from shared.contracts.envelope import Event
from shared.contracts.identity_events import ACCESS_CHANGED, HEARTBEAT, STATES
from shared.db import create_pool
from shared.directory import Directory
from shared.identity_client import InternalTokens, ServiceClient
from shared.loopback import LoopbackBus
from shared.migrate import migrate
from tests.support.databases import Databases
from tests.support.identity import INTERNAL_SECRET, OPERATOR_PASSWORD, IdentityStack

_numbers = count(1)
LEDGER_MIGRATIONS = MIGRATIONS.parents[1] / "ledger" / "migrations"


@pytest.fixture
async def identity(databases: Databases) -> AsyncIterator[IdentityStack]:
    async with IdentityStack.fresh(databases) as stack:
        yield stack


def name(stem: str = "u") -> str:
    return f"{stem}{next(_numbers)}"


async def whole_log(identity: IdentityStack, limit: int = 500) -> list[dict[str, Any]]:
    token, items, after = await identity.internal(), [], 0
    while True:
        page = (await identity.get(f"/v1/events?after={after}&limit={limit}", token)).body
        items += page["items"]
        if page["next"] is None:
            return items
        after = page["next"]


async def test_every_change_is_a_whole_state(identity: IdentityStack) -> None:
    operator = await identity.operator()
    company = await identity.company("C1", npis=["1234567893"])
    location = await identity.location(company["id"], "L1", emr_location_id="7")
    user = await identity.user(name(), "provider", [company["id"]])
    client = await identity.client("EMR", [company["id"]], ["//emr"])
    seen = len(await whole_log(identity))
    changes = (
        ("PATCH", f"/v1/companies/{company['id']}", {"name": "Other"}),
        ("PATCH", f"/v1/companies/{company['id']}/locations/{location['id']}", {"active": False}),
        ("PATCH", f"/v1/users/{user['id']}", {"last_name": "Other"}),
        ("PATCH", f"/v1/users/{user['id']}", {"role": "front_office"}),
        ("PATCH", f"/v1/users/{user['id']}", {"active": False}),
        ("DELETE", f"/v1/clients/{client['id']}", None),
        ("PATCH", f"/v1/users/{user['id']}", {"active": False}),  # no change, no event
        ("PATCH", f"/v1/users/{user['id']}", {"role": "nonsense"}),  # refused, no event
        (
            "PATCH",
            f"/v1/users/{user['id']}",
            {"password": "only the password"},
        ),  # nobody else's business, but for his tokens
    )
    for method, path, body in changes:
        await identity.request(method, path, token=operator, json=body)
    log = await whole_log(identity)
    assert [item["position"] for item in log] == list(range(1, len(log) + 1))
    access = [item["event"]["data"] for item in log if item["event"]["type"] == ACCESS_CHANGED]
    versions = [(row["subject"], row["authz_version"]) for row in access]
    assert versions == [(user["id"], 2), (user["id"], 3), (client["id"], 2), (user["id"], 4)]
    for item in log:
        event = Event[STATES[item["event"]["type"]]].model_validate(item["event"])  # type: ignore[misc]
        assert event.specversion == "1.0"
    states = [item for item in log if item["event"]["type"] != ACCESS_CHANGED]
    assert len(states) == seen + 6
    data = [item["event"]["data"] for item in states]
    assert data[seen] == {
        "company_id": company["id"],
        "version": 2,
        **{key: company[key] for key in ("code", "service_type", "time_zone", "close_policy", "npis", "active")},
        "name": "Other",
    }
    assert states[seen]["event"]["subject"] == company["id"]
    assert (data[seen + 1]["emr_location_id"], data[seen + 1]["active"]) == ("7", False)
    assert [row["version"] for row in data if row.get("user_id") == user["id"]] == [1, 2, 3, 4]
    assert data[seen + 5] == {
        "client_id": client["client_id"],
        "version": 2,
        "name": "EMR",
        "kind": "emr",
        "company_ids": [company["id"]],
        "sources": ["//emr"],
        "active": False,
    }
    assert await whole_log(identity, limit=2) == log


async def test_positions_are_gapless_under_concurrency(identity: IdentityStack) -> None:
    company = (await identity.company("C1"))["id"]
    before = len(await whole_log(identity))

    async def watch(stop: asyncio.Event) -> list[int]:
        """A reader that goes on from the last position it saw."""
        token, seen = await identity.internal(), [0]
        while not stop.is_set():
            page = (await identity.get(f"/v1/events?after={seen[-1]}&limit=7", token)).body
            seen += [item["position"] for item in page["items"]]
        return seen[1:]

    stop = asyncio.Event()
    watching = asyncio.create_task(watch(stop))
    made = await asyncio.gather(
        *(identity.user(name(), "provider", [company]) for _ in range(20)),
        *(identity.location(company, f"L{number}") for number in range(20)),
        *(identity.post(f"/v1/companies/{company}/locations", {"code": "L0", "name": "x"}) for _ in range(5)),
    )
    assert len(made) == 45
    await asyncio.sleep(0.1)
    stop.set()
    assert await watching == list(range(1, before + 41))


async def test_the_role_can_only_append(identity: IdentityStack) -> None:
    await identity.company("C1")
    async with await create_pool(identity.dsn, name="test", role="identity_app") as pool:
        for statement in (
            "update event set payload = ''",
            "delete from event",
            "truncate event",
            "update audit set actor_name = ''",
            "delete from audit",
            "delete from app_user",
            "delete from company",
            "update role_user_type set user_type = 'customer'",
            "insert into role_service_type values ('provider', 'self_service')",
            "drop table event",
            "alter table event disable trigger all",
            "create table other (a int)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await pool.execute(statement)


async def test_the_database_knows_the_same_roles_as_the_matrix(identity: IdentityStack) -> None:
    connection = await asyncpg.connect(identity.dsn)
    try:
        types = {tuple(row) for row in await connection.fetch("select role, user_type from role_user_type")}
        services = {tuple(row) for row in await connection.fetch("select role, service_type from role_service_type")}
    finally:
        await connection.close()
    known = catalogue().values()
    people = ("partner", "customer")
    assert types == {("operator", "operator")} | {
        (role.key, kind) for role in known for kind in people if role.user_type in (None, kind)
    }
    assert services == {(role.key, kind) for role in known for kind in role.service_types}


async def test_the_relay_publishes_and_directories_agree(identity: IdentityStack, databases: Databases) -> None:
    """One directory is fed by the bus, another reads the log: both end with the same rows."""
    dsns = [await databases.create(LEDGER_MIGRATIONS) for _ in range(2)]
    tokens = InternalTokens(identity.url, INTERNAL_SECRET)
    client = ServiceClient(identity.url, tokens)
    bus, stop = LoopbackBus(), asyncio.Event()
    async with await create_pool(dsns[0], name="a") as first, await create_pool(dsns[1], name="b") as second:
        by_bus, by_log = Directory(first, client), Directory(second, client)
        tasks = [
            asyncio.create_task(bus.consume(Directory.subscription("ledger.directory.v1"), by_bus.handle, stop)),
            asyncio.create_task(relay.run(identity.config, stop, bus)),
        ]
        try:
            companies = [(await identity.company(f"C{number}"))["id"] for number in range(5)]
            for number, company in enumerate(companies):
                await identity.location(company, "A", emr_location_id=str(number))
                user = await identity.user(name(), "partner_admin", companies[: number + 1])
                await identity.patch(f"/v1/users/{user['id']}", {"first_name": "New"}, await identity.operator())
            await identity.client("EMR", companies, ["//emr/1", "//emr/2"])
            await until_published(identity)
            await by_log.catch_up()
            for table in ("company", "location", "user", "client"):
                query = f"select * from directory_{table} order by 1, 2"
                rows = [[tuple(row) for row in await pool.fetch(query)] for pool in (first, second)]
                assert rows[0] == rows[1]
                assert rows[0]
            assert await second.fetchval("select position from directory_progress") == len(await whole_log(identity))
        finally:
            stop.set()
            await asyncio.gather(*tasks)
            await client.close()
            await tokens.close()
    for dsn in dsns:
        await databases.drop(dsn)


async def test_the_relay_names_its_messages(identity: IdentityStack) -> None:
    bus, stop, seen = LoopbackBus(), asyncio.Event(), list[Message]()

    async def handle(batch: Any) -> list[Outcome]:
        seen.extend(batch)
        return [Outcome.DONE] * len(batch)

    await identity.company("C1")
    tasks = [
        asyncio.create_task(bus.consume(Subscription("all.v1", BILLING_EVENTS, ("#",)), handle, stop)),
        asyncio.create_task(relay.run(identity.config, stop, bus)),
    ]
    await until_published(identity)
    stop.set()
    await asyncio.gather(*tasks)
    log = await whole_log(identity)
    assert [(m.message_id, m.type, m.routing_key) for m in seen if m.type != HEARTBEAT] == [
        (item["event"]["id"], item["event"]["type"], item["event"]["type"]) for item in log
    ]


async def until_published(identity: IdentityStack) -> None:
    connection = await asyncpg.connect(identity.dsn)
    try:
        async with asyncio.timeout(10):
            while await connection.fetchval("select count(*) from outbox"):
                await asyncio.sleep(0.02)
    finally:
        await connection.close()


async def test_only_internal_clients_read_the_log(identity: IdentityStack) -> None:
    company = (await identity.company("C1"))["id"]
    emr = await identity.client("EMR", [company])
    user = await identity.user(name(), "partner_admin", [company])
    for token in (
        await identity.operator(),
        await identity.token(user["user_name"]),
        await identity.client_token(emr["client_id"], emr["client_secret"]),
    ):
        assert (await identity.get("/v1/events", token)).status == 403
    assert (await identity.get("/v1/events")).status == 401


class TestAudit:
    async def test_who_did_what(self, identity: IdentityStack) -> None:
        mine, other = [(await identity.company(name("C")))["id"] for _ in range(2)]
        admin = await identity.user(name("admin"), "partner_admin", [mine])
        token = await identity.token(admin["user_name"])
        user = await identity.user(name(), "provider", [mine])
        foreign = await identity.user(name(), "provider", [other])
        secret = "a secret that is nowhere"
        change = {"password": secret, "last_name": "Zzcanary"}
        await identity.patch(f"/v1/users/{user['id']}", change, token)
        await identity.ask_token(grant_type="password", username=user["user_name"], password="wrong " + secret)
        await identity.ask_token(grant_type="password", username="typed " + secret, password="x")
        rows = (await identity.get("/v1/audit", token)).body["items"]
        assert [row["id"] for row in rows] == sorted((row["id"] for row in rows), reverse=True)
        assert rows[0]["action"] == "sign_in_failed"
        assert (rows[1]["action"], rows[1]["actor_name"], rows[1]["subject_id"], rows[1]["changed"]) == (
            "user_changed",
            admin["user_name"],
            user["id"],
            ["last_name", "password"],
        )
        assert foreign["id"] not in [row["subject_id"] for row in rows]
        whole = await identity.get("/v1/audit?limit=500", await identity.operator())
        assert foreign["id"] in [row["subject_id"] for row in whole.body["items"]]
        for text in (secret, "Zzcanary"):
            assert text not in whole.raw.decode()

    async def test_pages(self, identity: IdentityStack) -> None:
        operator = await identity.operator()
        for number in range(7):
            await identity.company(f"C{number}")
        path = "/v1/audit?action=company_created"  # What is read comes into the audit meanwhile.
        whole = (await identity.get(path, operator)).body["items"]
        page = (await identity.get(f"{path}&limit=3", operator)).body
        rest = (await identity.get(f"{path}&cursor={page['next']}", operator)).body
        assert page["items"] + rest["items"] == whole
        assert rest["next"] is None


async def test_a_login_without_special_rights_runs_the_service(databases: Databases) -> None:
    """An administrator made the group role and granted it: nothing more is needed."""
    dsn, login = await databases.create(), f"owner_{next(_numbers)}"
    administrator = await asyncpg.connect(dsn)
    try:
        await administrator.execute(f"create role {login} login in role identity_app password 'x'")
        await administrator.execute(f"alter database {dsn.rpartition('/')[2]} owner to {login}")
        own = f"postgresql://{login}:x@{dsn.partition('@')[2]}"
        await migrate(own, MIGRATIONS)
        async with IdentityStack.running(own) as identity:
            company = await identity.company("C1")
            assert (await identity.get(f"/v1/companies/{company['id']}", await identity.operator())).status == 200
            assert (await identity.get("/readyz")).status == 200
    finally:
        await administrator.execute(f"reassign owned by {login} to postgres")
        await administrator.execute(f"alter database {dsn.rpartition('/')[2]} owner to postgres")
        await administrator.execute(f"drop owned by {login}")
        await administrator.execute(f"drop role {login}")
        await administrator.close()
        await databases.drop(dsn)


async def test_a_missing_migration_is_not_ready(databases: Databases) -> None:
    async with IdentityStack.fresh(databases) as identity:
        connection = await asyncpg.connect(identity.dsn)
        await connection.execute("delete from schema_migration")
        await connection.close()
        answer = await identity.get("/readyz")
        assert (answer.status, answer.body["failed"]) == (503, ["migrations"])


async def test_lost_connections_are_503_and_soon_forgotten(identity: IdentityStack) -> None:
    operator, stop, seen = await identity.operator(), asyncio.Event(), set[int]()

    async def hammer() -> None:
        while not stop.is_set():
            seen.add((await identity.get("/v1/companies", operator)).status)
            form = {"grant_type": "password", "username": "operator", "password": OPERATOR_PASSWORD}
            seen.add((await identity.ask_token(**form)).status)

    tasks = [asyncio.create_task(hammer()) for _ in range(4)]
    other = await asyncpg.connect(identity.dsn)
    for _ in range(10):
        await asyncio.sleep(0.05)
        await other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    await other.close()
    stop.set()
    await asyncio.gather(*tasks)
    assert seen <= {200, 503}
    assert (await identity.get("/v1/companies", operator)).status == 200


async def test_an_unusable_configuration_says_what_to_set(databases: Databases) -> None:
    dsn = await databases.create(MIGRATIONS)
    with pytest.raises(SystemExit, match="OPERATOR_PASSWORD"):
        async with IdentityStack.running(dsn, operator_password=SecretStr("short")):
            pass
    with pytest.raises(SystemExit, match="IDENTITY_DATABASE_URL"):
        async with IdentityStack.running(dsn, identity_database_url=None):
            pass
    await databases.drop(dsn)
