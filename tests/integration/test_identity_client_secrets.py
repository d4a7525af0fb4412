"""What guessing at a client's secret meets, and what is written down of guessing at all (ASVS 5.0 6.3.1, 16.3.1)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest

from services.identity.service import throttle
from shared.errors import Unavailable
from shared.identity_client import InternalTokens
from tests.support.databases import Databases
from tests.support.identity import INTERNAL_SECRET, Answer, IdentityStack
from tests.support.second_factor import grant, run_sql

_numbers = count(1)
STRANGER, OURS = "203.0.113.9", "10.0.0.5"
MOST = throttle.CLIENT.free + 1
"""How many guesses are verified before the first wait."""


@pytest.fixture
async def identity(databases: Databases) -> AsyncIterator[IdentityStack]:
    async with IdentityStack.fresh(databases, behind_proxy=True) as stack:
        yield stack


async def client(identity: IdentityStack) -> dict[str, Any]:
    company = (await identity.company(f"C{next(_numbers)}"))["id"]
    return await identity.client(f"emr {next(_numbers)}", [company])


async def ask(identity: IdentityStack, client_id: str, secret: str, address: str = STRANGER) -> Answer:
    form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
    return await identity.request("POST", "/v1/token", data=form, headers={"X-Forwarded-For": address})


async def guesses(identity: IdentityStack, client_id: str, number: int, address: str = STRANGER) -> Counter[int]:
    answers = await asyncio.gather(*(ask(identity, client_id, f"guess {n}", address) for n in range(number)))
    return Counter(answer.status for answer in answers)


async def written(identity: IdentityStack, *actions: str) -> list[dict[str, Any]]:
    """Entries of the audit, oldest first."""
    items = (await identity.get("/v1/audit?limit=500", await identity.operator())).body["items"]
    return [one for one in reversed(items) if one["action"] in actions]


class TestGuessing:
    async def test_meets_a_limit_and_gives_way_again(self, identity: IdentityStack) -> None:
        emr = await client(identity)
        assert await guesses(identity, emr["client_id"], 40) == {401: MOST, 429: 40 - MOST}
        waiting = await ask(identity, emr["client_id"], emr["client_secret"])
        assert waiting.status == 429, "while it waits, the right secret is not told from a wrong one"
        await asyncio.sleep(int(waiting.headers["Retry-After"]))
        assert (await ask(identity, emr["client_id"], emr["client_secret"])).status == 200
        assert (await guesses(identity, emr["client_id"], 10))[429] == 0, "who was right starts anew"

    async def test_of_several_processes_together(self, identity: IdentityStack) -> None:
        emr = await client(identity)
        async with IdentityStack.running(identity.dsn, behind_proxy=True) as other:
            seen = await asyncio.gather(*(guesses(one, emr["client_id"], 30) for one in (identity, other)))
        assert MOST <= sum(one[401] for one in seen) <= MOST + 2

    async def test_asking_about_tokens_is_counted_as_well(self, identity: IdentityStack) -> None:
        form = {"client_id": "internal", "client_secret": "guess", "token": "x"}
        answers = [await identity.form("/v1/introspect", **form) for _ in range(MOST + 5)]
        assert Counter(answer.status for answer in answers)[429] >= 4

    async def test_at_many_names_from_one_address(self, identity: IdentityStack) -> None:
        answers = await asyncio.gather(*(ask(identity, f"client {n}", "guess") for n in range(260)))
        seen = Counter(answer.status for answer in answers)
        assert throttle.ADDRESS.free < seen[401] <= throttle.ADDRESS.free + 4
        assert (await ask(identity, "internal", INTERNAL_SECRET, OURS)).status == 200

    async def test_a_stranger_holds_no_service_up(self, identity: IdentityStack) -> None:
        """However long he guesses, and from wherever he does."""
        for stranger in (STRANGER, "198.51.100.7", "192.0.2.1"):
            assert (await guesses(identity, "internal", 60, stranger))[429] > 0
        for _ in range(30):
            assert (await ask(identity, "internal", INTERNAL_SECRET, OURS)).status == 200

    async def test_services_in_a_hurry_are_no_guessers(self, identity: IdentityStack) -> None:
        answers = await asyncio.gather(*(ask(identity, "internal", INTERNAL_SECRET, OURS) for _ in range(60)))
        assert {answer.status for answer in answers} == {200}

    async def test_a_service_that_has_to_wait_uses_the_token_it_has(self, identity: IdentityStack) -> None:
        tokens = InternalTokens(identity.url, INTERNAL_SECRET)
        try:
            held = await tokens.get()
            await guesses(identity, "internal", 40, "127.0.0.1")
            tokens._renew_at = 0.0
            assert await tokens.get() == held
            tokens.drop()
            with pytest.raises(Unavailable):
                await tokens.get()
        finally:
            await tokens.close()


class TestTheAudit:
    async def test_has_each_wrong_secret_and_each_wait(self, identity: IdentityStack) -> None:
        emr = await client(identity)
        await guesses(identity, emr["client_id"], 40)
        wrong = await written(identity, "client_sign_in_failed")
        assert len(wrong) == MOST
        for one in wrong:
            assert (one["actor_name"], one["subject_id"]) == (emr["name"], emr["id"])
            assert (one["address"], one["details"]) == (STRANGER, {"methods": ["client_secret"]})
        (locked,) = await written(identity, "sign_in_locked")
        assert (locked["subject_id"], locked["details"]) == (emr["id"], {"of": "client", "seconds": 1})

    async def test_keeps_nothing_of_a_name_that_nobody_has(self, identity: IdentityStack) -> None:
        await ask(identity, "a secret in the wrong field", "x\0y")
        await ask(identity, "a\0b", "x")
        wrong = await written(identity, "client_sign_in_failed")
        assert [(one["actor_name"], one["subject_id"]) for one in wrong] == [("", None)] * 2
        rows = await run_sql(identity, "select a::text as text from audit a")
        assert not any("wrong field" in row["text"] for row in rows)

    async def test_has_the_waits_of_accounts(self, identity: IdentityStack) -> None:
        company = (await identity.company(f"C{next(_numbers)}"))["id"]
        user = await identity.user("locked.one", "provider", [company])
        await asyncio.gather(*(grant(identity, "locked.one", f"guess {n}") for n in range(30)))
        entries = await written(identity, "sign_in_failed", "sign_in_locked")
        # The eleventh and what it brings are written in one moment.
        assert Counter(one["action"] for one in entries[:12]) == {"sign_in_failed": 11, "sign_in_locked": 1}
        locked = next(one for one in entries if one["action"] == "sign_in_locked")
        assert locked["details"] == {"of": "account", "seconds": 1}
        assert {one["subject_id"] for one in entries} == {user["id"]}
        rows = await run_sql(identity, "select company_ids from audit where action like 'sign_in_%'")
        assert {tuple(map(str, row["company_ids"])) for row in rows} == {(company,)}, "its administrators see it"

    async def test_has_wrong_old_passwords_and_codes(self, identity: IdentityStack) -> None:
        company = (await identity.company(f"C{next(_numbers)}"))["id"]
        user = await identity.user("wrong.one", "provider", [company])
        token = await identity.token("wrong.one")
        body = {"old_password": "wrong password", "password": "another good password"}
        assert (await identity.post("/v1/me/password", body, token)).status == 422
        assert (await identity.request("POST", "/v1/me/totp", token=token)).status == 201
        assert (await identity.post("/v1/me/totp/confirm", {"code": "000000"}, token)).status == 422
        entries = await written(identity, "password_change_failed", "totp_refused")
        assert [(one["action"], one["subject_id"]) for one in entries] == [
            ("password_change_failed", user["id"]),
            ("totp_refused", user["id"]),
        ]
