"""What guessing meets: limits per account, per address and in all, which hold across processes and give way again;
bounded memory; the same time for everybody (ASVS 5.0 6.3.1, 6.3.8; quality 3.5, cases 76-79)."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import count
from typing import Any

import asyncpg
import psutil
import pytest

from services.identity.passwords import Hasher
from services.identity.service import throttle as module
from services.identity.service.throttle import Throttle
from services.identity.service.upkeep import forget
from services.identity.store.failures import Limit
from shared.address import UNKNOWN, network
from shared.db import create_pool
from shared.errors import TooManyRequests, Unavailable
from tests.support.databases import Databases
from tests.support.identity import PASSWORD, IdentityStack
from tests.support.second_factor import grant, run_sql

_numbers = count(1)


@pytest.fixture
async def identity(databases: Databases) -> AsyncIterator[IdentityStack]:
    async with IdentityStack.fresh(databases) as stack:
        yield stack


@pytest.fixture
async def pool(identity: IdentityStack) -> AsyncIterator[asyncpg.Pool]:
    async with await create_pool(identity.dsn, name="test", role="identity_app") as made:
        yield made


async def somebody(identity: IdentityStack, stem: str = "u") -> str:
    company = (await identity.company(f"C{next(_numbers)}"))["id"]
    return str((await identity.user(f"{stem}{next(_numbers)}", "provider", [company]))["user_name"])


async def later(identity: IdentityStack, seconds: float) -> None:
    """As if every failure had happened so much earlier."""
    await run_sql(
        identity,
        "update login_failure set failed_at = failed_at - make_interval(secs => $1),"
        " blocked_until = blocked_until - make_interval(secs => $1)",
        seconds,
    )


async def guess(throttle: Throttle, account: str, address: str) -> bool:
    """Whether a wrong guess was let through."""
    try:
        async with throttle.attempt(account, address):
            return True
    except TooManyRequests:
        return False


class TestTheLimits:
    async def test_of_several_processes_together(self, identity: IdentityStack) -> None:
        """Nothing is counted in memory: three processes let through what one does."""
        user = await somebody(identity)
        async with IdentityStack.running(identity.dsn) as second, IdentityStack.running(identity.dsn) as third:
            answers = await asyncio.gather(
                *(grant(one, user, f"guess {number}") for number in range(100) for one in (identity, second, third))
            )
        seen = Counter(answer.status for answer in answers)
        assert seen.keys() == {400, 429}
        # Ten for nothing, the one that brings the first wait, and one more for each second that the test took.
        assert 11 <= seen[400] <= 13, seen

    async def test_of_attempts_that_are_still_being_verified(self, pool: asyncpg.Pool) -> None:
        """An attempt counts before its outcome is known, so slow verification is no way around."""
        throttles = [Throttle(pool) for _ in range(30)]
        go, inside = asyncio.Event(), 0

        async def attempt(throttle: Throttle) -> bool:
            nonlocal inside
            try:
                async with throttle.attempt("slow", "10.0.0.1"):
                    inside += 1
                    await go.wait()
                    return True
            except TooManyRequests:
                return False

        tasks = [asyncio.create_task(attempt(one)) for one in throttles]
        while inside + sum(task.done() for task in tasks) < 30:
            await asyncio.sleep(0.01)
        go.set()
        assert sum(await asyncio.gather(*tasks)) == module.ACCOUNT.free + 1

    async def test_an_account_waits_longer_each_time_and_never_for_good(
        self, identity: IdentityStack, pool: asyncpg.Pool
    ) -> None:
        throttle, waits = Throttle(pool), []
        for _ in range(module.ACCOUNT.free):
            assert await guess(throttle, "one", "10.0.0.1")
        for _ in range(14):
            assert await guess(throttle, "one", "10.0.0.1")
            with pytest.raises(TooManyRequests) as refused:
                async with throttle.attempt("one", "10.0.0.2"):
                    pass
            waits.append(int(refused.value.headers["Retry-After"]))
            await later(identity, waits[-1])
        assert waits[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
        assert set(waits[9:]) == {300}, "five minutes are the longest"
        async with throttle.attempt("one", "10.0.0.1") as attempt:
            attempt.succeeded()
        assert [await guess(throttle, "one", "10.0.0.1") for _ in range(10)] == [True] * 10

    async def test_an_address_that_tries_many_accounts(self, identity: IdentityStack, pool: asyncpg.Pool) -> None:
        throttle = Throttle(pool)
        passed = [await guess(throttle, f"account {number}", "10.0.0.1") for number in range(260)]
        # One more for each ten seconds that the test takes: that much is forgotten.
        assert module.ADDRESS.free < sum(passed) <= module.ADDRESS.free + 4
        assert await guess(throttle, "account 1", "10.0.0.2"), "others are not held up"
        await later(identity, 60)
        assert await guess(throttle, "another", "10.0.0.1")
        await later(identity, 3_600)
        assert sum([await guess(throttle, f"again {number}", "10.0.0.1") for number in range(200)]) == 200

    async def test_everybody_together_is_slowed_down_and_soon_let_go(
        self, identity: IdentityStack, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "EVERYBODY", Limit(40, timedelta(seconds=10), timedelta(minutes=15), drain=5))
        throttle = Throttle(pool)
        passed = [await guess(throttle, f"a {number}", f"10.0.{number}.1") for number in range(100)]
        assert 41 <= sum(passed) <= 50
        await later(identity, 10)
        assert await guess(throttle, "somebody", "10.9.9.9")
        await later(identity, 60)
        assert all([await guess(throttle, f"b {number}", f"10.1.{number}.1") for number in range(30)])

    async def test_a_steady_trickle_of_typing_errors_blocks_nobody(
        self, identity: IdentityStack, pool: asyncpg.Pool
    ) -> None:
        """An office behind one address, a failure every ten seconds, for ten hours."""
        throttle = Throttle(pool)
        for number in range(360):
            assert await guess(throttle, f"employee {number}", "10.0.0.1"), number
            await later(identity, 10)
        for number in range(360, 400):
            assert await guess(throttle, f"employee {number}", "10.0.0.1")

    async def test_strangers_do_not_keep_the_owner_out_where_he_is_at_home(
        self, identity: IdentityStack, pool: asyncpg.Pool
    ) -> None:
        """One guess in five minutes would hold an account up for as long as somebody cares to, and many guesses at
        others would hold up everybody."""
        throttle, home = Throttle(pool), "2001:db8:1:2::3"
        async with throttle.attempt("owner", home) as attempt:
            attempt.succeeded()
        for number in range(60):
            await guess(throttle, "owner", f"10.1.0.{number}")
        assert not await guess(throttle, "owner", "10.2.0.1")
        await run_sql(identity, "update login_failure set failures = 5000 where subject = 'everybody'")
        for number in range(2):
            await guess(throttle, f"somebody {number}", f"10.3.0.{number}")
        assert not await guess(throttle, "another", "10.4.0.1")
        async with throttle.attempt("owner", "2001:db8:1:2:ffff::1") as attempt:
            attempt.succeeded()
        assert not await guess(throttle, "owner", "10.2.0.1"), "he forgives nobody but himself"
        assert [await guess(throttle, "owner", home) for _ in range(12)] == [True] * 11 + [False], (
            "nor is he free there"
        )

    async def test_home_is_where_one_has_signed_in_within_a_month(
        self, identity: IdentityStack, pool: asyncpg.Pool
    ) -> None:
        throttle = Throttle(pool)
        for half in ("was_right", "left_open"):
            async with throttle.attempt(half, "10.0.0.1") as attempt:
                getattr(attempt, half)()
        assert await run_sql(identity, "select from known_place") == []
        async with throttle.attempt("owner", "10.0.0.1") as attempt:
            attempt.succeeded()
        async with throttle.attempt("owner", UNKNOWN) as attempt:
            attempt.succeeded()
        (row,) = await run_sql(identity, "select place from known_place")
        assert row["place"] == "10.0.0.1"
        await run_sql(identity, "update known_place set seen_at = seen_at - interval '31 days'")
        for number in range(20):
            await guess(throttle, "owner", f"10.1.0.{number}")
        assert not await guess(throttle, "owner", "10.0.0.1")
        await forget(pool)
        assert await run_sql(identity, "select from known_place") == []

    async def test_nothing_is_held_against_an_attempt_that_was_not_made(
        self, identity: IdentityStack, pool: asyncpg.Pool
    ) -> None:
        throttle = Throttle(pool)
        for outcome in range(40):
            try:
                async with throttle.attempt("one", "10.0.0.1") as attempt:
                    if outcome % 2:
                        raise Unavailable("too busy to hash")
                    attempt.left_open()
            except Unavailable:
                pass
        kept = await run_sql(identity, "select max(failures) from login_failure")
        assert kept[0][0] < 1

    def test_what_counts_as_one_address(self) -> None:
        assert network("2001:db8:1:2:3:4:5:6") == network("2001:db8:1:2::1") == "2001:db8:1:2::/64"
        assert network("2001:db8:1:3::1") != network("2001:db8:1:2::1")
        assert network("::ffff:10.0.0.1") == network("10.0.0.1") == "10.0.0.1"
        assert network("nonsense\0" * 100) == network("") == "unknown"

    async def test_the_address_is_the_one_that_the_proxy_saw(self, databases: Databases) -> None:
        async with IdentityStack.fresh(databases, behind_proxy=True) as behind:
            for sent in ("9.9.9.9", "1.1.1.1, 9.9.9.9", "made up, 9.9.9.9"):
                await self.failing(behind, sent)
            kept = {row["subject"] for row in await run_sql(behind, "select subject from login_failure")}
            assert {one for one in kept if one.startswith("address:")} == {"address:9.9.9.9"}
        async with IdentityStack.fresh(databases) as direct:
            await self.failing(direct, "9.9.9.9")
            kept = {row["subject"] for row in await run_sql(direct, "select subject from login_failure")}
            assert {one for one in kept if one.startswith("address:")} == {"address:127.0.0.1"}

    async def failing(self, identity: IdentityStack, forwarded_for: str) -> None:
        form: dict[str, Any] = {"grant_type": "password", "username": "nobody", "password": "wrong"}
        answer = await identity.request("POST", "/v1/token", data=form, headers={"X-Forwarded-For": forwarded_for})
        assert answer.status == 400


class TestTheCost:
    async def test_a_thousand_guesses_at_once_fill_neither_memory_nor_time(self, databases: Databases) -> None:
        """With the real parameters, 19 MiB a hash: at a thousand accounts, so that no lock thins them out."""
        hasher = Hasher()
        async with IdentityStack.fresh(databases, hasher) as identity:
            user = await somebody(identity)
            await grant(identity, user)
            process = psutil.Process()
            before, highest, stop = process.memory_info().rss, 0, asyncio.Event()

            async def watch() -> None:
                nonlocal highest
                while not stop.is_set():
                    highest = max(highest, process.memory_info().rss)
                    await asyncio.sleep(0.01)

            watching = asyncio.create_task(watch())
            began = time.monotonic()
            answers = await asyncio.gather(*(grant(identity, f"account{n}", "wrong password") for n in range(1_000)))
            waited = time.monotonic() - began
            stop.set()
            await watching
            seen = Counter(answer.status for answer in answers)
            assert seen.keys() <= {400, 429, 503}
            later = math.log2(waited + 1) + module.ADDRESS.drain * waited  # After waits of 1, 2, 4... seconds.
            assert seen[400] <= module.ADDRESS.free + 1 + math.ceil(later), "no more than the address may try"
            assert seen[503] > 0, "what does not fit in the queue is refused, not kept"
            # Two threads at 19 MiB, and what a thousand open connections take, client's side included.
            assert highest - before < 150 << 20, (highest - before) >> 20
            for answer in answers:
                assert answer.status == 400 or int(answer.headers["Retry-After"]) >= 1
            assert (await identity.get("/livez")).status == 200

    @pytest.mark.measured
    async def test_the_time_says_nothing_about_the_account(self, databases: Databases) -> None:
        """A user, one without a password, one who is deactivated, one with a second factor, and nobody at all."""
        async with IdentityStack.fresh(databases, Hasher(time_cost=3, memory_cost=19_456)) as identity:
            names = {kind: await somebody(identity, kind) for kind in ("plain", "silent", "inactive", "factor")}
            await run_sql(identity, "update app_user set password_hash = null where user_name = $1", names["silent"])
            await run_sql(identity, "update app_user set active = false where user_name = $1", names["inactive"])
            await run_sql(
                identity,
                "insert into totp (user_id, sealed_secret, confirmed) select id, '', true from app_user"
                " where user_name = $1",
                names["factor"],
            )
            names["nobody"] = "nobody"
            times: dict[str, list[float]] = {kind: [] for kind in names}
            for _ in range(9):
                for kind, user in names.items():
                    started = time.perf_counter()
                    answer = await grant(identity, user, "wrong password")
                    times[kind].append(time.perf_counter() - started)
                    assert answer.status == 400
            least = {kind: min(values) for kind, values in times.items()}  # What others do at the time only adds.
            assert max(least.values()) / min(least.values()) < 1.5, least

    async def test_an_owner_gets_in_while_his_colleagues_accounts_are_under_attack(
        self, identity: IdentityStack
    ) -> None:
        owner, victim = await somebody(identity), await somebody(identity)
        attack = [asyncio.create_task(grant(identity, victim, f"guess {number}")) for number in range(300)]
        for _ in range(5):
            assert (await grant(identity, owner, PASSWORD)).status == 200
        await asyncio.gather(*attack)
