"""How much one caller may ask for, and who a caller is: the rules, without a server."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.address import UNKNOWN, Proxies, network
from shared.config import Config
from shared.errors import TooManyRequests
from shared.web import limits
from shared.web.limits import AtOnce, CallLimit


class Clock:
    """Time as the test says."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    with pytest.MonkeyPatch.context() as patch:
        made = Clock()
        patch.setattr(limits, "time", made)
        yield made


def admitted(limit: CallLimit, caller: str = "a") -> bool:
    try:
        limit.take(caller)
    except TooManyRequests:
        return False
    return True


class TestCalls:
    @given(st.lists(st.floats(0, 3), max_size=200), st.integers(1, 20), st.integers(1, 20))
    def test_never_more_than_the_burst_and_the_rate_of_any_span(
        self, pauses: list[float], rate: int, burst: int
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            clock = Clock()
            patch.setattr(limits, "time", clock)
            limit, times = CallLimit(rate, burst), []
            for pause in pauses:
                clock.now += pause
                if admitted(limit):
                    times.append(clock.now)
            for first, began in enumerate(times):
                for last, ended in enumerate(times[first:], first):
                    assert last - first + 1 <= burst + rate * (ended - began) + 1e-3

    def test_a_caller_within_the_rate_is_never_refused(self, clock: Clock) -> None:
        limit = CallLimit(50, 2)
        for _ in range(5_000):
            assert admitted(limit)
            clock.now += 0.0201

    def test_refused_calls_cost_nothing_and_the_wait_is_as_said(self, clock: Clock) -> None:
        limit = CallLimit(1, 5)
        assert sum(admitted(limit) for _ in range(1_000)) == 5
        clock.now += 1.001
        assert [admitted(limit) for _ in range(2)] == [True, False]
        with pytest.raises(TooManyRequests) as refusal:
            limit.take("a")
        assert (refusal.value.status, refusal.value.headers) == (429, {"Retry-After": "1"})

    def test_callers_do_not_share(self) -> None:
        limit = CallLimit(1, 1)
        assert [admitted(limit, caller) for caller in "aabab"] == [True, False, True, False, False]

    def test_nothing_is_counted_without_a_rate(self) -> None:
        limit = CallLimit(0, 1)
        assert all(admitted(limit) for _ in range(10_000))
        assert limit.callers == 0

    def test_memory_is_bounded_and_who_calls_on_is_remembered(self) -> None:
        limit = CallLimit(1, 3)
        assert [admitted(limit, "busy") for _ in range(4)] == [True, True, True, False]
        for number in range(100_000):
            limit.take(number)
            if number == 15_000:
                assert not admitted(limit, "busy"), "a caller of the last generation"
        assert limit.callers <= 2 * limits._MOST_CALLERS


class TestUploads:
    def test_together_they_fit_and_one_alone_may_be_larger(self) -> None:
        limit = AtOnce(100)
        with limit.holding("a", 60), limit.holding("a", 40), limit.holding("b", 1_000):
            for size in (1, 1_000):
                with pytest.raises(TooManyRequests), limit.holding("a", size):
                    pass
        with limit.holding("a", 1_000), pytest.raises(TooManyRequests), limit.holding("a", 1):
            pass
        assert limit._held == {}

    def test_an_error_gives_its_bytes_back(self) -> None:
        limit = AtOnce(1)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), limit.holding("a", 1):
                raise ZeroDivisionError
        assert limit._held == {}


def address(proxies: Proxies, *forwarded: str, peer: str = "192.0.2.1") -> str:
    request: Any = make_mocked_request("GET", "/", headers=[("X-Forwarded-For", one) for one in forwarded])  # type: ignore[arg-type]
    return proxies.address_of(request.clone(remote=peer))


INSIDE = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32"))
SPOOFED = st.lists(
    st.one_of(
        st.ip_addresses().map(str), st.sampled_from(["", "10.0.0.1", "nonsense", "1.2.3.4:5", "::ffff:10.0.0.1"])
    ),
    max_size=5,
).map(",".join)


class TestAddresses:
    def test_without_a_proxy_nobodys_word_counts(self) -> None:
        assert address(Proxies(), "9.9.9.9") == "192.0.2.1"
        assert address(Proxies(trusted=INSIDE), "9.9.9.9") == "192.0.2.1"

    @given(SPOOFED, st.booleans())
    def test_what_a_caller_sends_himself_changes_nothing(self, sent: str, apart: bool) -> None:
        """Our proxy saw 203.0.113.9, or a trusted one in front did; whatever stood there before is the caller's."""
        for seen, proxies in (
            (["203.0.113.9"], Proxies(True)),
            (["203.0.113.9"], Proxies(True, INSIDE)),
            (["203.0.113.9", "10.1.1.1"], Proxies(True, INSIDE)),
            (["203.0.113.9", "2001:db8::1", "10.1.1.1"], Proxies(True, INSIDE)),
        ):
            headers = [sent, ", ".join(seen)] if apart else [", ".join([sent, *seen])]
            assert address(proxies, *headers) == "203.0.113.9"

    def test_a_proxy_that_is_not_named_is_where_it_ends(self) -> None:
        assert address(Proxies(True), "203.0.113.9, 10.1.1.1") == "10.1.1.1"
        assert address(Proxies(True, INSIDE), "203.0.113.9, 172.16.0.1, 10.1.1.1") == "172.16.0.1"
        assert address(Proxies(True, INSIDE), "203.0.113.9, nonsense, 10.1.1.1") == UNKNOWN

    def test_of_callers_from_inside_it_is_the_first(self) -> None:
        assert address(Proxies(True, INSIDE), "10.9.9.9, 10.1.1.1") == "10.9.9.9"
        assert address(Proxies(True, INSIDE)) == "192.0.2.1"

    def test_one_form_for_one_address(self) -> None:
        assert address(Proxies(True), "::ffff:10.0.0.1") == "10.0.0.1"
        assert address(Proxies(True), "2001:DB8:0::1") == "2001:db8::1"
        assert network("fe80::1%eth0") == "fe80::/64"

    def test_networks_are_read_from_one_setting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TRUSTED_PROXIES", "10.0.0.0/8, 2001:db8::/32,")
        assert Config().trusted_proxies == INSIDE
        monkeypatch.setenv("TRUSTED_PROXIES", "")
        assert Config().trusted_proxies == ()
        monkeypatch.setenv("TRUSTED_PROXIES", "everybody")
        with pytest.raises(ValidationError):
            Config()
