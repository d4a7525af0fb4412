"""Users: the companies they are granted, the default one, and locations (U3, U5-U7, U13)."""

from __future__ import annotations

from uuid import uuid4

from tests.support.identity import IdentityStack, same_but_request_id
from tests.support.identity_users import admin_of, body, company, name, refused


class TestCompanies:
    async def test_u3_u7_a_customer_gets_the_active_company(self, identity: IdentityStack) -> None:
        first, second = await company(identity), await company(identity)
        admin = (await identity.user(name("admin"), "partner_admin", [first, second]))["user_name"]
        token = await identity.token(admin)
        made = await identity.post("/v1/users", body(), token)
        assert (made.status, made.body["company_ids"], made.body["default_company_id"]) == (201, [first], first)
        switched = await identity.post("/v1/users", body(), await identity.token(admin, second))
        assert switched.body["company_ids"] == [second]
        for other in ([second], [first, second], [], [str(uuid4())]):
            refused(await identity.post("/v1/users", body(company_ids=other), token), "company_ids")
        assert (await identity.post("/v1/users", body(company_ids=[first]), token)).status == 201

    async def test_the_operator_names_exactly_one_for_a_customer(self, identity: IdentityStack) -> None:
        first, second = await company(identity), await company(identity)
        operator = await identity.operator()
        for wrong in (..., [], [first, second], [str(uuid4())]):
            refused(await identity.post("/v1/users", body(company_ids=wrong), operator), "company_ids")
        assert (await identity.post("/v1/users", body(company_ids=[first]), operator)).status == 201

    async def test_u5_a_partner_gets_what_the_creator_has(self, identity: IdentityStack) -> None:
        first, second, foreign = [await company(identity) for _ in range(3)]
        token = await admin_of(identity, first, second)
        made = await identity.post("/v1/users", body(user_type="partner", company_ids=[second, first]), token)
        assert (made.status, made.body["default_company_id"]) == (201, second)
        refused(await identity.post("/v1/users", body(user_type="partner"), token), "company_ids")
        refused(await identity.post("/v1/users", body(user_type="partner", company_ids=[]), token), "company_ids")
        answers = [
            await identity.post("/v1/users", body(user_type="partner", company_ids=[first, wrong]), token)
            for wrong in (foreign, str(uuid4()))
        ]
        for answer in answers:
            refused(answer, "company_ids", "unknown_company")
        assert same_but_request_id(*answers)

    async def test_u5_no_company_of_others_is_shown(self, identity: IdentityStack) -> None:
        mine, other = await company(identity), await company(identity)
        token = await admin_of(identity, mine)
        location = (await identity.location(other, "X1"))["id"]
        shared = await identity.user(
            name(), "provider", [other, mine], default_company_id=other, emr_location_ids=[location]
        )
        for seen in (
            (await identity.get(f"/v1/users/{shared['id']}", token)).body,
            next(u for u in (await identity.get("/v1/users", token)).body["items"] if u["id"] == shared["id"]),
        ):
            assert seen["company_ids"] == [mine]
            assert seen["default_company_id"] is None
            assert seen["emr_location_ids"] == []
        access = await identity.get(f"/v1/users/{shared['id']}/access", token)
        assert other not in access.raw.decode()

    async def test_u6_the_default_is_granted(self, identity: IdentityStack) -> None:
        first, second, third = [await company(identity) for _ in range(3)]
        token = await admin_of(identity, first, second, third)
        new = body(user_type="partner", company_ids=[first, second], default_company_id=third)
        refused(await identity.post("/v1/users", new, token), "default_company_id")
        made = (await identity.post("/v1/users", {**new, "default_company_id": second}, token)).body
        path = f"/v1/users/{made['id']}"
        refused(await identity.patch(path, {"company_ids": [first]}, token), "default_company_id", "not_granted")
        refused(await identity.patch(path, {"default_company_id": third}, token), "default_company_id")
        refused(await identity.patch(path, {"default_company_id": None}, token), "default_company_id")
        assert (await identity.get(path, token)).body == made
        change = {"company_ids": [first], "default_company_id": first}
        assert (await identity.patch(path, change, token)).body["default_company_id"] == first
        assert (await identity.sign_in(made["user_name"]))["company_id"] == first

    async def test_u13_an_account_that_reaches_further_is_the_operators(self, identity: IdentityStack) -> None:
        mine, other = await company(identity), await company(identity)
        token = await admin_of(identity, mine)
        shared = await identity.user(name(), "provider", [other, mine])
        path = f"/v1/users/{shared['id']}"
        for change in (
            {"password": "another good password"},
            {"active": False},
            {"role": "front_office"},
            {"first_name": "Eve"},
            {"user_name": name("eve")},
        ):
            assert (await identity.patch(path, change, token)).status == 403
        refused(await identity.patch(path, {"default_company_id": other}, token), "default_company_id")
        leave = await identity.patch(path, {"company_ids": []}, token)
        assert (leave.status, leave.body["company_ids"]) == (200, [])
        assert (await identity.get(path, token)).status == 404
        whole = (await identity.get(path, await identity.operator())).body
        assert whole["company_ids"] == [other]

    async def test_case_81_locations_belong_to_granted_companies(self, identity: IdentityStack) -> None:
        mine, other = await company(identity), await company(identity)
        token = await admin_of(identity, mine)
        good, foreign = (await identity.location(mine, "A"))["id"], (await identity.location(other, "B"))["id"]
        restricted = "front_office_emr_restricted"
        answers = [
            await identity.post("/v1/users", body(restricted, emr_location_ids=[good, wrong]), token)
            for wrong in (foreign, str(uuid4()))
        ]
        for answer in answers:
            refused(answer, "emr_location_ids", "unknown_location")
        assert same_but_request_id(*answers)
        made = await identity.post("/v1/users", body(restricted, emr_location_ids=[good]), token)
        assert (made.status, made.body["emr_location_ids"]) == (201, [good])
        path = f"/v1/users/{made.body['id']}"
        refused(await identity.patch(path, {"emr_location_ids": [foreign]}, token), "emr_location_ids")
        assert (await identity.patch(path, {"emr_location_ids": []}, token)).body["emr_location_ids"] == []
