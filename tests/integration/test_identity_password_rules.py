"""Which passwords are refused: common and breached ones, and those made of words that everybody knows (ASVS 5.0 6.1.2,
6.2.4, 6.2.11, 6.2.12; quality case 77)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.identity.breached import BreachedPasswords
from services.identity.domain import made_of
from services.identity.passwords import context_words
from tests.support.databases import Databases
from tests.support.identity import PASSWORD, Answer, IdentityStack
from tests.support.second_factor import grant

_numbers = count(1)
BREACHED = ("a breached password", "p\u00e4sswort-in-the-list", "Tr0ub4dor&3 and more")
GOOD = "seven purple lanterns"


def line(password: str, seen: int = 3) -> str:
    return f"{hashlib.sha1(password.encode()).hexdigest().upper()}:{seen}"  # noqa: S324 -- the list's choice


def write(path: Path, passwords: Iterable[str], end: str = "\r\n") -> Path:
    path.write_bytes("".join(one + end for one in sorted(map(line, passwords))).encode())
    return path


@pytest.fixture(scope="module")
async def identity(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[IdentityStack]:
    names = [*BREACHED, *(f"somebody else's {number}" for number in range(2_000))]
    path = write(tmp_path_factory.mktemp("breached") / "pwned.txt", names)
    async with IdentityStack.fresh(databases, breached_passwords=path) as stack:
        yield stack


def body(company: str, **fields: Any) -> dict[str, Any]:
    user = {"user_name": f"u{next(_numbers)}", "first_name": "Ada", "last_name": "Lovelace-King"}
    user |= {"email": "countess@analytical.example", "role": "provider", "user_type": "customer"}
    return {**user, "company_ids": [company], **fields}


async def company(identity: IdentityStack) -> str:
    return str((await identity.company(f"MOUNT{next(_numbers)}", name="Evergreen Spine & Sport"))["id"])


def too_easy(answer: Answer) -> None:
    assert (answer.status, answer.body["code"]) == (422, "too_common"), answer
    assert [error["field"] for error in answer.body["errors"]] == ["password"]


async def by_every_way(identity: IdentityStack, password: str) -> list[Answer]:
    """A password set at creation, by an administrator, by the user himself, and with a reset code."""
    operator, where = await identity.operator(), await company(identity)
    made = await identity.post("/v1/users", body(where, password=PASSWORD), operator)
    assert made.status == 201, made
    path, name = f"/v1/users/{made.body['id']}", made.body["user_name"]
    code = (await identity.request("POST", f"{path}/password-reset", token=operator)).body["code"]
    token = await identity.token(name)
    answers = [
        await identity.post("/v1/users", body(where, password=password), operator),
        await identity.patch(path, {"password": password}, operator),
        await identity.post("/v1/me/password", {"old_password": PASSWORD, "password": password}, token),
        await identity.post("/v1/password-reset", {"user_name": name, "code": code, "password": password}),
    ]
    if all(answer.status == 422 for answer in answers):
        assert (await grant(identity, name)).status == 200, "nothing has changed"
        good = {"user_name": name, "code": code, "password": GOOD}
        assert (await identity.post("/v1/password-reset", good)).status == 204, "the code is still good"
    return answers


@pytest.mark.parametrize("password", ["PassWord1", "iloveyou1", *BREACHED, "pa\u0308sswort-in-the-list"])
async def test_case_77_common_and_breached_ones_by_every_way(identity: IdentityStack, password: str) -> None:
    """One answer for both, and however the letters are composed."""
    answers = await by_every_way(identity, password)
    for answer in answers:
        too_easy(answer)
        assert password not in answer.raw.decode()
    assert len({answer.body["errors"][0]["message"] for answer in answers}) == 1


@pytest.mark.parametrize(
    "password",
    [
        "Practice-Billing-2026!",
        "evergreenspine",
        "Evergreen Spine & Sport",
        "LOVELACE_king.ada",
        "ada.lovelace1815",
        "countess@analytical.example",
        "webpt-webpt-123",
        "Admin Operator",
    ],
)
async def test_words_of_the_context_by_every_way(identity: IdentityStack, password: str) -> None:
    for answer in await by_every_way(identity, password):
        too_easy(answer)


@pytest.mark.parametrize("password", [GOOD, "evergreen spine and sport", "Practice makes perfect", "ada 8392017465"])
async def test_one_word_of_another_kind_is_enough(identity: IdentityStack, password: str) -> None:
    assert [answer.status for answer in (await by_every_way(identity, password))][:2] == [201, 200]


async def test_names_that_change_with_it_count(identity: IdentityStack) -> None:
    operator = await identity.operator()
    made = (await identity.post("/v1/users", body(await company(identity)), operator)).body
    change = {"last_name": "Wheatstone", "password": "ada wheatstone"}
    too_easy(await identity.patch(f"/v1/users/{made['id']}", change, operator))
    assert (await identity.patch(f"/v1/users/{made['id']}", {"password": "ada wheatstone"}, operator)).status == 200


async def test_a_refusal_tells_no_name_of_a_company_that_one_does_not_have(identity: IdentityStack) -> None:
    """D11: a foreign company is named in the body, and its name tried as the password."""
    mine, foreign = (await company(identity)), (await identity.company("ELSE", name="Quicksilver Orthopaedics"))["id"]
    await identity.user("admin.mine", "partner_admin", [mine])
    new = body(foreign, user_type="partner", password="quicksilver orthopaedics")
    answer = await identity.post("/v1/users", new, await identity.token("admin.mine"))
    assert (answer.status, answer.body["errors"][0]["field"]) == (422, "company_ids")


async def test_without_a_list_the_common_ones_are_refused(databases: Databases) -> None:
    async with IdentityStack.fresh(databases) as plain:
        where = (await plain.company("C"))["id"]
        too_easy(await plain.post("/v1/users", body(where, password="password1"), await plain.operator()))
        made = await plain.post("/v1/users", body(where, password=BREACHED[0]), await plain.operator())
        assert made.status == 201


class TestTheList:
    @given(
        st.sets(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=60),
        st.sets(st.text(st.characters(exclude_categories=["Cs"])), max_size=20),
        st.sampled_from(["\n", "\r\n"]),
        st.booleans(),
        st.booleans(),
    )
    def test_has_what_it_has(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        inside: set[str],
        others: set[str],
        end: str,
        cut: bool,
        low: bool,
    ) -> None:
        path = write(tmp_path_factory.mktemp("list") / "list.txt", inside, end)
        text = path.read_bytes()
        path.write_bytes((text.lower() if low else text).removesuffix(end.encode() if cut else b""))
        known = BreachedPasswords(path)
        try:
            assert {one for one in inside | others if one in known} == inside
        finally:
            known.close()

    def test_is_never_loaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        names = [f"password number {number}" for number in range(20_000)]
        known = BreachedPasswords(write(tmp_path / "list.txt", names))
        read: list[int] = []
        pread = os.pread

        def counted(descriptor: int, size: int, place: int) -> bytes:
            read.append(size)
            return pread(descriptor, size, place)

        monkeypatch.setattr("services.identity.breached.os.pread", counted)
        for sought in (names[0], names[-1], "absent"):
            read.clear()
            assert (sought in known) == (sought != "absent")
            assert len(read) <= 22, "2^20 bytes halved until a line is left"
            assert sum(read) < 4_096
        known.close()

    @pytest.mark.parametrize(
        "content", [b"", b"password\n", b"5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8\n", b"\0" * 500, b"x" * 10_000]
    )
    def test_that_is_none_stops_the_start(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "list.txt"
        path.write_bytes(content)
        with pytest.raises(SystemExit, match="BREACHED_PASSWORDS"):
            BreachedPasswords(path)
        with pytest.raises(SystemExit, match="BREACHED_PASSWORDS"):
            BreachedPasswords(tmp_path / "absent.txt")


class TestTheWords:
    def test_are_documented_and_usable(self) -> None:
        words = context_words()
        assert {"practice", "billing", "operator", "drchrono", "webpt"} <= words
        assert all(word.isalpha() and word == word.casefold() and len(word) > 2 for word in words)

    @given(st.lists(st.sampled_from(sorted(context_words())), min_size=1, max_size=8), st.text("0189 -_.!", max_size=3))
    def test_in_any_order_and_with_anything_between(self, words: list[str], between: str) -> None:
        joined = between.join(words).upper()
        letters = sum(map(len, words))
        assert made_of(joined, context_words()) == (2 * letters >= len(joined))
        assert not made_of(joined + "zqx", context_words())

    def test_long_ones_cost_little(self) -> None:
        """No way of dividing it is tried twice."""
        assert not made_of("a" * 255 + "b", {"a" * size for size in range(3, 60)})
