"""What the demo shows at the end, read from the services as their callers would."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from deploy.demo.api import Api, Caller, DemoError
from deploy.demo.practice import ADMIN, PEOPLE, POSTER, RESTRICTED, SELF_SERVICE_ADMIN
from shared.money import dollars

_BALANCING: Final = "/reporting/v1/reports/payment-balancing"
_ACTIVITY: Final = "/reporting/v1/reports/my-payment-activity"
_DAYS: Final = 31
_TRIES: Final = 15
_FIGURES: Final = {
    "payments": "Payments",
    "amount_cents": "Amount",
    "applied_cents": "Applied",
    "adjusted_cents": "Adjusted",
    "provider_level_cents": "PLB",
    "unapplied_cents": "Unapplied",
}


async def show(screen: Console, api: Api, password: str, today: date) -> None:
    """Users, Payment Balancing as two of them see it, and commands to go on with."""
    admin = await api.sign_in(ADMIN, password)
    restricted = await api.sign_in(RESTRICTED, password)
    head = (await admin.get("/ledger/v1/control-totals"))["as_of_version"]
    days = {"from": (today - timedelta(days=_DAYS - 1)).isoformat(), "to": today.isoformat()}
    base = await _report(admin, head, **days, group_by="poster,source")
    full = await _report(admin, head, **days, variation="full_access")
    own = await _report(restricted, head, **days)
    _show_users(screen, password)
    screen.print(f"\nPayment Balancing, {days['from']} to {days['to']}, as the Practice Admin sees it", style="bold")
    screen.print(_table(screen, base))
    screen.print(f"Full Access, with what RCM staff posted: {_in_words(full['totals'])}")
    screen.print(f"The restricted biller sees Lakeside only: {_in_words(own['totals'])}")
    _show_commands(screen, api.base, password, days)


async def _report(caller: Caller, version: int, **query: str) -> Any:
    """Payment Balancing once everything that the ledger has posted is in it."""
    for left in reversed(range(_TRIES)):
        try:
            return await caller.get(_BALANCING, **query, min_version=version, limit=500)
        except DemoError as error:
            if "version_not_reached" not in str(error) or not left:
                raise
    raise AssertionError


def _show_users(screen: Console, password: str) -> None:
    screen.print(f"\nDemo users, all with the password [bold]{password}[/]")
    for person in (*PEOPLE, SELF_SERVICE_ADMIN):
        screen.print(f"  {person.user_name:<20} {person.about}")


def _table(screen: Console, report: Any) -> Table:
    lines = box.SIMPLE if screen.is_terminal else None
    table = Table(box=lines, show_footer=True, show_edge=False, pad_edge=False)
    totals = report["totals"]
    table.add_column("Poster", footer="Total")
    table.add_column("Source", no_wrap=True)
    for name, title in _FIGURES.items():
        table.add_column(title, footer=_figure(name, totals), justify="right", no_wrap=True)
    for item in report["items"]:
        table.add_row(item["poster_name"], item["source"], *(_figure(name, item) for name in _FIGURES))
    return table


def _figure(name: str, row: dict[str, Any]) -> str:
    return str(row[name]) if name == "payments" else dollars(row[name])


def _in_words(totals: dict[str, Any]) -> str:
    return f"{totals['payments']} payments, {dollars(totals['amount_cents'])}"


def _show_commands(screen: Console, base: str, password: str, days: dict[str, str]) -> None:
    read = "python3 -c 'import json, sys; print(json.load(sys.stdin)[\"access_token\"])'"
    span = f"from={days['from']}&to={days['to']}"
    bearer = '-H "Authorization: Bearer $TOKEN"'
    screen.print("\nTry it (the token is good for five minutes)")
    for command in (
        f"TOKEN=$(curl -s {base}/identity/v1/token -d grant_type=password -d username={POSTER}"
        f" -d password={password} | {read})",
        f"curl -s {bearer} '{base}{_ACTIVITY}?{span}'",
        f"curl -s {bearer} '{base}{_BALANCING}?{span}&group_by=poster,source'",
    ):
        screen.print(f"  {command}", markup=False)
