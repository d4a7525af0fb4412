"""Companies, locations and machine clients."""

from __future__ import annotations

from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest

from shared.access.policy import catalogue
from tests.support.identity import Answer, IdentityStack, same_but_request_id

_numbers = count(1)
NEW = {
    "name": "Riverside Physical Therapy",
    "service_type": "revequip",
    "time_zone": "America/Chicago",
    "close_policy": "posting_date",
}


def name(stem: str = "c") -> str:
    return f"{stem}{next(_numbers)}"


def refused(answer: Answer, field: str, code: str | None = None) -> None:
    assert answer.status == 422, answer
    assert (field, code) in [(error["field"], error["code"] if code else None) for error in answer.body["errors"]], (
        answer
    )


async def member(identity: IdentityStack, role: str, *companies: str, **fields: Any) -> str:
    """The access token of a new user."""
    return await identity.token((await identity.user(name("u"), role, companies, **fields))["user_name"])


class TestCompanies:
    async def test_the_operator_opens_companies(self, identity: IdentityStack) -> None:
        operator = await identity.operator()
        made = await identity.post("/v1/companies", {**NEW, "code": name(), "npis": ["1234567893"]}, operator)
        assert made.status == 201, made
        assert made.body["npis"] == ["1234567893"]
        assert (await identity.get(f"/v1/companies/{made.body['id']}", operator)).body == made.body
        listed = (await identity.get("/v1/companies?limit=500", operator)).body["items"]
        assert made.body in listed

    @pytest.mark.parametrize(
        ("field", "wrong"),
        [
            ("code", ""),
            ("code", "a b"),
            ("code", None),
            ("name", "   "),
            ("name", "x" * 201),
            ("name", "a\u202eb"),
            ("service_type", "revenue"),
            ("time_zone", "Mars/Base"),
            ("time_zone", "EST"),
            ("time_zone", "america/new_york"),
            ("time_zone", "../../etc/passwd"),
            ("time_zone", "localtime"),
            ("close_policy", "whenever"),
            ("npis", ["12345"]),
            ("npis", ["1234567893", "1234567893"]),
            ("npis", "1234567893"),
            ("id", str(UUID(int=5))),
        ],
    )
    async def test_fields_refused(self, identity: IdentityStack, field: str, wrong: Any) -> None:
        operator = await identity.operator()
        answer = await identity.post("/v1/companies", {**NEW, "code": name(), field: wrong}, operator)
        assert answer.status == 422, answer
        assert answer.body["errors"][0]["field"].split(".")[0] == field

    async def test_codes_are_unique(self, identity: IdentityStack) -> None:
        operator, code = await identity.operator(), name("Code")
        first = await identity.company(code)
        refused(await identity.post("/v1/companies", {**NEW, "code": code.upper()}, operator), "code", "taken")
        second = await identity.company(name())
        path = f"/v1/companies/{second['id']}"
        refused(await identity.patch(path, {"code": code.lower()}, operator), "code", "taken")
        same = await identity.patch(f"/v1/companies/{first['id']}", {"code": code.upper()}, operator)
        assert (same.status, same.body["code"]) == (200, code.upper())

    async def test_administrators_edit_constants_of_each_company_they_have(self, identity: IdentityStack) -> None:
        first, second = [(await identity.company(name()))["id"] for _ in range(2)]
        token = await member(identity, "partner_admin", first, second)
        for mine in (first, second):
            changed = await identity.patch(f"/v1/companies/{mine}", {"name": "New name", "npis": []}, token)
            assert (changed.status, changed.body["name"], changed.body["version"]) == (200, "New name", 2)
        assert (await identity.patch(f"/v1/companies/{first}", {"active": False}, token)).status == 403
        refused(await identity.patch(f"/v1/companies/{first}", {"name": None}, token), "name", "null")
        viewer = await member(identity, "practice_admin", first)
        assert (await identity.get(f"/v1/companies/{first}", viewer)).status == 200
        assert (await identity.patch(f"/v1/companies/{first}", {"name": "No"}, viewer)).status == 403
        assert (await identity.post("/v1/companies", {**NEW, "code": name()}, token)).status == 403

    async def test_u10_the_service_type_stays_one_that_its_users_roles_apply_to(self, identity: IdentityStack) -> None:
        operator, mine = await identity.operator(), (await identity.company(name()))["id"]
        await identity.user(name("u"), "provider", [mine])
        path = f"/v1/companies/{mine}"
        assert (await identity.patch(path, {"service_type": "revserve"}, operator)).status == 200
        refused(await identity.patch(path, {"service_type": "self_service"}, operator), "service_type", "role_conflict")
        assert (await identity.get(path, operator)).body["service_type"] == "revserve"

    async def test_d11_a_foreign_company_is_an_absent_one(self, identity: IdentityStack) -> None:
        mine, foreign = [(await identity.company(name()))["id"] for _ in range(2)]
        token = await member(identity, "partner_admin", mine)
        location = (await identity.location(foreign, "L"))["id"]
        for method, tail, body in (
            ("GET", "", None),
            ("PATCH", "", {"name": "Mine now"}),
            ("GET", "/locations", None),
            ("POST", "/locations", {"code": "X", "name": "X"}),
            ("GET", f"/locations/{location}", None),
            ("PATCH", f"/locations/{location}", {"active": False}),
        ):
            answers = [
                await identity.request(method, f"/v1/companies/{key}{tail}", token=token, json=body)
                for key in (foreign, str(uuid4()), "x")
            ]
            assert {answer.status for answer in answers} == {404}, (method, tail)
            assert same_but_request_id(*answers)
        listed = (await identity.get("/v1/companies", token)).body["items"]
        assert [company["id"] for company in listed] == [mine]

    async def test_nobody_gets_a_token_for_a_closed_company(self, identity: IdentityStack) -> None:
        mine, other = [(await identity.company(name()))["id"] for _ in range(2)]
        user = (await identity.user(name("u"), "provider", [mine, other], default_company_id=mine))["user_name"]
        only = (await identity.user(name("u"), "provider", [mine]))["user_name"]
        operator = await identity.operator()
        await identity.patch(f"/v1/companies/{mine}", {"active": False}, operator)
        assert (await identity.sign_in(user))["company_id"] == other
        asked = await identity.ask_token(grant_type="password", username=only, password="correct horse battery")
        assert (asked.status, asked.body["error"]) == (400, "invalid_grant")
        assert (await identity.get("/v1/me", await identity.token(user))).body["companies"][0]["id"] == other


class TestLocations:
    async def test_any_member_reads_them(self, identity: IdentityStack) -> None:
        company = await identity.company(name(), "revserve")
        made = await identity.location(company["id"], "MAIN", emr_location_id="clinic 7")
        for role in ("practice_admin", "front_office", "provider"):
            token = await member(identity, role, company["id"])
            path = f"/v1/companies/{company['id']}/locations"
            assert (await identity.get(path, token)).body == {"items": [made], "next": None}
            assert (await identity.get(f"{path}/{made['id']}", token)).body == made
            assert (await identity.post(path, {"code": "X", "name": "X"}, token)).status == 403
        emr = await identity.client(name("emr"), [company["id"]])
        for token in (await identity.client_token(emr["client_id"], emr["client_secret"]), await identity.internal()):
            assert (await identity.get(path, token)).status == 403

    async def test_r1_the_restricted_role_reads_its_own(self, identity: IdentityStack) -> None:
        first, second = [(await identity.company(name()))["id"] for _ in range(2)]
        mine = await identity.location(first, "A")
        other = await identity.location(first, "B")
        beyond = await identity.location(second, "C")
        grants = [mine["id"], beyond["id"]]
        role = "front_office_emr_restricted"
        token = await member(identity, role, first, second, emr_location_ids=grants, default_company_id=first)
        path = f"/v1/companies/{first}/locations"
        assert (await identity.get(path, token)).body["items"] == [mine]
        assert (await identity.get(f"{path}/{mine['id']}", token)).status == 200
        hidden = await identity.get(f"{path}/{other['id']}", token)
        absent = await identity.get(f"{path}/{uuid4()}", token)
        assert hidden.status == 404
        assert same_but_request_id(hidden, absent)
        nothing = await member(identity, role, first)
        assert (await identity.get(path, nothing)).body["items"] == []

    async def test_rules(self, identity: IdentityStack) -> None:
        company, other = [(await identity.company(name()))["id"] for _ in range(2)]
        token = await member(identity, "partner_admin", company)
        path = f"/v1/companies/{company}/locations"
        made = await identity.post(path, {"code": "Ab1", "name": "Main", "emr_location_id": "7"}, token)
        assert made.status == 201, made
        refused(await identity.post(path, {"code": "aB1", "name": "Again"}, token), "code", "taken")
        twin = {"code": "X", "name": "X", "emr_location_id": "7"}
        refused(await identity.post(path, twin, token), "emr_location_id", "taken")
        assert (await identity.location(other, "AB1", emr_location_id="7"))["code"] == "AB1"
        closed = await identity.post(path, {**twin, "active": False}, token)
        assert closed.status == 201
        one = f"{path}/{closed.body['id']}"
        refused(await identity.patch(one, {"active": True}, token), "emr_location_id", "taken")
        opened = await identity.patch(one, {"active": True, "emr_location_id": None}, token)
        assert (opened.status, opened.body["emr_location_id"], opened.body["active"]) == (200, None, True)
        for field in ("code", "name", "active"):
            refused(await identity.patch(one, {field: None}, token), field, "null")
        for field, wrong in (("code", "a b"), ("name", ""), ("active", "yes"), ("active", 1), ("emr_location_id", "")):
            refused(await identity.patch(one, {field: wrong}, token), field)
        refused(await identity.patch(one, {"company_id": other}, token), "company_id", "extra_forbidden")


class TestClients:
    async def test_made_by_the_operator_shown_once(self, identity: IdentityStack) -> None:
        company = (await identity.company(name()))["id"]
        made = await identity.client(name("emr"), [company], ["//clinic/emr"])
        token = await identity.client_token(made["client_id"], made["client_secret"])
        me = (await identity.get("/v1/me", token)).body
        assert (me["role"], me["user_type"], me["company_id"]) == ("emr", "client", company)
        listed = (await identity.get("/v1/clients?limit=500", await identity.operator())).body["items"]
        assert {key: value for key, value in made.items() if key != "client_secret"} in listed
        admin = await member(identity, "partner_admin", company)
        assert (await identity.post("/v1/clients", {"name": "x"}, admin)).status == 403
        seen = (await identity.get("/v1/clients", admin)).body["items"]
        assert [client["id"] for client in seen] == [made["id"]]
        assert (await identity.request("DELETE", f"/v1/clients/{made['id']}", token=admin)).status == 204
        assert (await identity.request("DELETE", f"/v1/clients/{made['id']}", token=admin)).status == 404
        gone = await identity.ask_token(
            grant_type="client_credentials", client_id=made["client_id"], client_secret=made["client_secret"]
        )
        assert (gone.status, gone.body["error"]) == (401, "invalid_client")
        again = await identity.client(made["name"], [company], ["//clinic/emr"])
        assert again["id"] != made["id"]

    async def test_a_client_of_several_companies(self, identity: IdentityStack) -> None:
        mine, other, foreign = [(await identity.company(name()))["id"] for _ in range(3)]
        made = await identity.client(name("emr"), [mine, other])
        admin = await member(identity, "partner_admin", mine)
        seen = (await identity.get("/v1/clients", admin)).body["items"]
        assert [client["company_ids"] for client in seen] == [[mine]]
        assert (await identity.request("DELETE", f"/v1/clients/{made['id']}", token=admin)).status == 403
        stranger = await member(identity, "partner_admin", foreign)
        answers = [
            await identity.request("DELETE", f"/v1/clients/{key}", token=stranger) for key in (made["id"], uuid4())
        ]
        assert answers[0].status == 404
        assert same_but_request_id(*answers)
        secret = {"client_id": made["client_id"], "client_secret": made["client_secret"]}
        asked = await identity.ask_token(grant_type="client_credentials", **secret)
        assert (asked.status, asked.body["error"]) == (400, "invalid_request")
        asked = await identity.ask_token(grant_type="client_credentials", company_id=other, **secret)
        assert asked.body["company_id"] == other
        assert "refresh_token" not in asked.body
        answers = [
            await identity.ask_token(grant_type="client_credentials", company_id=wrong, **secret)
            for wrong in (foreign, str(uuid4()), "nonsense")
        ]
        assert {(answer.status, answer.raw) for answer in answers} == {(400, answers[0].raw)}
        assert answers[0].body["error"] == "invalid_grant"

    @pytest.mark.parametrize(
        ("field", "wrong"),
        [
            ("name", ""),
            ("kind", "internal"),
            ("company_ids", []),
            ("company_ids", [str(UUID(int=5))]),
            ("company_ids", ["x"]),
            ("sources", ["with space"]),
            ("sources", ["a", "a"]),
            ("sources", [""]),
            ("client_secret", "mine"),
        ],
    )
    async def test_fields_refused(self, identity: IdentityStack, field: str, wrong: Any) -> None:
        company = (await identity.company(name()))["id"]
        body = {"name": name("emr"), "kind": "emr", "company_ids": [company], field: wrong}
        answer = await identity.post("/v1/clients", body, await identity.operator())
        assert answer.status == 422, answer
        assert answer.body["errors"][0]["field"].split(".")[0] == field

    async def test_a_source_speaks_for_one_client(self, identity: IdentityStack) -> None:
        company = (await identity.company(name()))["id"]
        await identity.client(name("emr"), [company], ["//taken", "//other"])
        body = {"name": name("emr"), "kind": "emr", "company_ids": [company], "sources": ["//new", "//taken"]}
        refused(await identity.post("/v1/clients", body, await identity.operator()), "sources", "taken")


async def test_what_a_member_sees_of_himself(identity: IdentityStack) -> None:
    company = await identity.company(name())
    mine = await identity.location(company["id"], "A1")
    await identity.location(company["id"], "A2")
    role = "front_office_emr_restricted"
    token = await member(identity, role, company["id"], emr_location_ids=[mine["id"]])
    me = (await identity.get("/v1/me", token)).body
    short = {key: company[key] for key in ("id", "code", "name")}
    assert (me["role"], me["role_label"]) == (role, catalogue()[role].label)
    assert (me["companies"], me["company_id"], me["default_company_id"]) == ([short], company["id"], company["id"])
    assert me["emr_locations"] == [{key: mine[key] for key in ("id", "code", "name")}]
    assert me["permissions"]["payment_balancing"]["scope"] == "own_emr_locations"
    assert [entry["label"] for entry in me["menu"]] == ["My Payment Activity", "Payment Balancing"]
    plain = (await identity.get("/v1/me", await member(identity, "front_office", company["id"]))).body
    assert [(entry["menu"], entry["label"]) for entry in plain["menu"]] == [("Payments", "My Payment Activity")]
    assert plain["emr_locations"] == "*"
    operator = (await identity.get("/v1/me", await identity.operator())).body
    assert (operator["role"], operator["company_id"], operator["menu"]) == ("operator", None, [])
