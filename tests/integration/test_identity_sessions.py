"""Sessions: how long they last, which there are, and how they end (45 CFR 164.312(a)(2)(iii), ASVS 5.0 7.3, 7.4)."""

from __future__ import annotations

import time
from itertools import count
from typing import Any
from uuid import uuid4

from tests.support.bad_tokens import claims_of
from tests.support.identity import INTERNAL_SECRET, IdentityStack, same_but_request_id
from tests.support.second_factor import audited, renew, run_sql

_numbers = count(1)


async def somebody(identity: IdentityStack) -> dict[str, Any]:
    company = (await identity.company(f"C{next(_numbers)}"))["id"]
    return await identity.user(f"u{next(_numbers)}", "provider", [company])


async def shift(identity: IdentityStack, user_id: str, seconds: int) -> None:
    """As if everything the user did had happened so much earlier."""
    moved = ", ".join(
        f"{column} = {column} - make_interval(secs => $2)"
        for column in ("expires_at", "family_expires_at", "started_at", "issued_at")
    )
    await run_sql(identity, f"update refresh_token set {moved} where user_id = $1::uuid", user_id, float(seconds))


async def listed(identity: IdentityStack, token: str) -> list[dict[str, Any]]:
    answer = await identity.get("/v1/me/sessions", token)
    assert answer.status == 200, answer
    items: list[dict[str, Any]] = answer.body["items"]
    return items


class TestHowLongTheyLast:
    async def test_idle_for_half_an_hour_is_over(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        token = (await identity.sign_in(user["user_name"]))["refresh_token"]
        await shift(identity, user["id"], 1_790)
        again = await renew(identity, token)
        assert again.status == 200, "used within the time, it goes on"
        await shift(identity, user["id"], 1_810)
        over = await renew(identity, again.body["refresh_token"])
        assert (over.status, over.body["error"]) == (400, "invalid_grant")

    async def test_twelve_hours_are_the_end_however_busy(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        token = (await identity.sign_in(user["user_name"]))["refresh_token"]
        refreshed = 0
        while (answer := await renew(identity, token)).status == 200:
            token = answer.body["refresh_token"]
            refreshed += 1
            await shift(identity, user["id"], 1_500)
        assert refreshed == 43_200 // 1_500 + 1, "28.8 times 25 minutes, and once at the beginning"

    async def test_no_access_token_outlives_them(self, identity: IdentityStack) -> None:
        """The last one of twelve hours is as short as what is left of them; so is one that nobody may refresh."""
        user = await somebody(identity)
        token = (await identity.sign_in(user["user_name"]))["refresh_token"]
        await shift(identity, user["id"], 1_700)
        token = (await renew(identity, token)).body["refresh_token"]
        await run_sql(
            identity,
            "update refresh_token set started_at = now() - interval '11 hours 59 minutes',"
            " family_expires_at = now() + interval '1 minute' where user_id = $1::uuid",
            user["id"],
        )
        last = await renew(identity, token)
        assert last.status == 200
        assert 50 < last.body["expires_in"] <= 60
        assert claims_of(last.body["access_token"])["exp"] <= time.time() + 60
        async with IdentityStack.running(identity.dsn, session_idle_seconds=40) as stricter:
            assert (await stricter.sign_in(user["user_name"]))["expires_in"] <= 40

    async def test_shorter_limits_hold_for_open_sessions_as_well(self, identity: IdentityStack) -> None:
        for limit in ("session_idle_seconds", "session_seconds"):
            user = await somebody(identity)
            token = (await identity.sign_in(user["user_name"]))["refresh_token"]
            await shift(identity, user["id"], 100)
            async with IdentityStack.running(identity.dsn, **{limit: 60}) as stricter:
                assert (await renew(stricter, token)).status == 400
            assert (await renew(identity, token)).status == 200

    async def test_a_replay_ends_the_family_although_the_replayed_token_is_old(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        first = (await identity.sign_in(user["user_name"]))["refresh_token"]
        second = (await renew(identity, first)).body["refresh_token"]
        await run_sql(
            identity,
            "update refresh_token set expires_at = now() - interval '1 hour' where user_id = $1::uuid and used",
            user["id"],
        )
        assert (await renew(identity, first)).status == 400
        assert (await renew(identity, second)).status == 400
        assert "refresh_token_reused" in await audited(identity)


class TestOnesOwn:
    async def test_a_list_of_what_is_open(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        older, newer = [await identity.sign_in(user["user_name"]) for _ in range(2)]
        newer = (await renew(identity, newer["refresh_token"])).body
        items = await listed(identity, newer["access_token"])
        assert [item["current"] for item in items] == [True, False]
        assert [item["current"] for item in await listed(identity, older["access_token"])] == [False, True]
        assert len({item["id"] for item in items}) == 2
        for item in items:
            assert item.keys() == {
                *("id", "company_id", "methods", "started_at", "issued_at", "expires_at", "ends_at", "current")
            }
            assert item["methods"] == ["pwd"]
            assert item["started_at"] <= item["issued_at"] < item["expires_at"] < item["ends_at"]
        assert not any(secret in str(items) for secret in (newer["refresh_token"], newer["access_token"]))

    async def test_end_one(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        stays, goes = [await identity.sign_in(user["user_name"]) for _ in range(2)]
        other = next(item for item in await listed(identity, stays["access_token"]) if not item["current"])
        path = f"/v1/me/sessions/{other['id']}"
        stranger = await identity.token((await somebody(identity))["user_name"])
        foreign = await identity.request("DELETE", path, token=stranger)
        absent = await identity.request("DELETE", f"/v1/me/sessions/{uuid4()}", token=stranger)
        assert foreign.status == 404
        assert same_but_request_id(foreign, absent)
        assert (await identity.request("DELETE", path, token=stays["access_token"])).status == 204
        assert (await identity.request("DELETE", path, token=stays["access_token"])).body["code"] == "token_stale"
        assert (await renew(identity, goes["refresh_token"])).status == 400
        renewed = await renew(identity, stays["refresh_token"])
        assert (await identity.request("DELETE", path, token=renewed.body["access_token"])).status == 404
        assert (await identity.get("/v1/me/sessions", goes["access_token"])).status == 401
        seen = await identity.form(
            "/v1/introspect", token=goes["access_token"], client_id="internal", client_secret=INTERNAL_SECRET
        )
        assert seen.body == {"active": False}
        assert "session_ended" in await audited(identity)

    async def test_what_has_ended_is_not_listed(self, identity: IdentityStack) -> None:
        user = await somebody(identity)
        await identity.sign_in(user["user_name"])
        await shift(identity, user["id"], 1_900)
        now = await identity.sign_in(user["user_name"])
        assert len(await listed(identity, now["access_token"])) == 1


async def test_an_administrator_ends_all_of_a_users(identity: IdentityStack) -> None:
    company = (await identity.company(f"C{next(_numbers)}"))["id"]
    admin = await identity.token((await identity.user(f"u{next(_numbers)}", "practice_admin", [company]))["user_name"])
    user = await identity.user(f"u{next(_numbers)}", "provider", [company])
    bystander = await identity.user(f"u{next(_numbers)}", "provider", [company])
    sessions = [await identity.sign_in(user["user_name"]) for _ in range(3)]
    unharmed = await identity.sign_in(bystander["user_name"])
    path = f"/v1/users/{user['id']}/sessions"
    assert (await identity.request("DELETE", path, token=unharmed["access_token"])).status == 403
    assert (await identity.request("DELETE", path, token=admin)).status == 204
    for one in sessions:
        assert (await renew(identity, one["refresh_token"])).status == 400
    assert (await renew(identity, unharmed["refresh_token"])).status == 200
    assert (await identity.sign_in(user["user_name"]))["access_token"]
    entry = (await identity.get("/v1/audit", admin)).body["items"]
    assert next(line for line in entry if line["action"] == "sessions_ended")["subject_id"] == user["id"]
