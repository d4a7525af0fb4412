"""A practice to try the services with, made and shown through their public HTTP API alone."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import aiohttp
import structlog
from rich.console import Console

from deploy.demo import books, feeds, payments, practice, summary
from deploy.demo.api import Api, Caller, DemoError
from deploy.local import LocalSecrets, read_json, write_private
from shared.config import Config

log = structlog.get_logger("demo")


class Demo:
    """Made once, when there is no company yet. Every step can be repeated without doubling anything, and the day that
    its dates are counted from is kept: so a demo that was interrupted goes on at the next start."""

    def __init__(self, screen: Console, config: Config, home: Path, secrets: LocalSecrets) -> None:
        self._screen = screen
        self._config = config
        self._base = config.identity_url.removesuffix("/identity")
        self._secrets = secrets
        self._state_file = home / "demo.json"

    async def show(self) -> None:
        """Make the demo unless it is there, and show it."""
        try:
            async with Api.at(self._base) as api:
                await self._demo(api)
        except (DemoError, aiohttp.ClientError, TimeoutError) as error:
            log.error("demo_failed", exc_info=True)
            reason = error if isinstance(error, DemoError) else type(error).__name__
            self._screen.print(f"\nThe demo could not be shown: {reason}. Everything else works.", markup=False)

    async def _demo(self, api: Api) -> None:
        operator = await self._operator(api)
        state = read_json(self._state_file)
        companies = await operator.everything("/identity/v1/companies")
        if companies and not state:
            self._screen.print("\nNo demo: there are companies already.")
            return
        today = datetime.now(ZoneInfo(practice.TIME_ZONE)).date()
        if not companies or not state.get("done"):
            day = date.fromisoformat(state["day"]) if companies else today
            self._keep(day, done=False)
            with self._screen.status("Making a demo practice"):
                await self._make(api, operator, day)
            self._keep(day, done=True)
        await summary.show(self._screen, api, self._secrets.demo_password, today)

    async def _operator(self, api: Api) -> Caller:
        password = self._config.operator_password
        return await api.sign_in("operator", password.get_secret_value() if password else "")

    def _keep(self, day: date, *, done: bool) -> None:
        write_private(self._state_file, json.dumps({"day": day.isoformat(), "done": done}) + "\n")

    async def _make(self, api: Api, operator: Caller, day: date) -> None:
        place = await practice.build(api, operator, self._secrets.demo_password)
        opened = await books.open_books(place, day)
        await feeds.send_remittances(place, opened)
        await feeds.send_emr_events(place, opened)
        await payments.post_all(place, opened)
