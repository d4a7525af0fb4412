"""A running ledger for tests: the API on a database of its own, companies in its directory, short ways to fill them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from services.ledger.api.common import LEDGER
from services.ledger.app import create_app
from services.ledger.service import Ledger
from services.ledger.store import MIGRATIONS
from shared.config import Config
from shared.contracts.envelope import Event
from shared.contracts.ledger_events import PostingEvent
from shared.ids import uuid7
from tests.support.databases import Databases
from tests.support.news import News
from tests.support.tokens import TokenMaker

ADMIN = "self_service_admin"
"""A role that may do everything in the ledger."""
NOBODY_THERE = "http://127.0.0.1:9"
"""Identity, as far as the ledger's tests are concerned: away."""
FEED_TYPES = {
    "x12": "application/edi-x12",
    "emr": "application/cloudevents+json",
    "hl7v2": "application/hl7-v2",
    "fhir": "application/fhir+json",
}
COUNTS = ("received", "posted", "duplicates", "ignored", "quarantined")
"""Of a feed: what came, and what became of it."""
_numbers = count(1)


@dataclass(slots=True)
class Answer:
    """One HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return orjson.loads(self.raw)

    @property
    def lines(self) -> list[Any]:
        """The rows of an NDJSON answer."""
        return [orjson.loads(line) for line in self.raw.splitlines()]

    @property
    def code(self) -> str:
        return str(self.body["code"])

    @property
    def fields(self) -> dict[str, str]:
        """Code by field, of a problem."""
        return {error["field"]: error["code"] for error in self.body["errors"]}

    def __str__(self) -> str:
        return f"{self.status} {self.raw[:1000]!r}"


@dataclass(slots=True)
class LedgerStack:
    """The API on a database of its own. Companies keep tests apart, so one database serves many."""

    dsn: str
    config: Config
    client: TestClient[Any, Any]
    ledger: Ledger
    owner: asyncpg.Pool
    """Connections of the superuser, to look and to tamper."""
    tokens: TokenMaker

    @classmethod
    @asynccontextmanager
    async def running(
        cls, dsn: str, tokens: TokenMaker | None = None, news: News | None = None, **settings: Any
    ) -> AsyncIterator[LedgerStack]:
        """Start the API on a migrated database; without `news` nobody's rights change; `settings` are of `Config`."""
        tokens = tokens or TokenMaker(news and news.revocations)
        config = Config(
            ledger_database_url=SecretStr(dsn),
            identity_url=NOBODY_THERE,
            internal_client_secret=SecretStr("secret"),
            log_level="error",
            **settings,
        )
        app = create_app(config, tokens.verifier, news and news.bus)
        async with (
            asyncpg.create_pool(dsn, min_size=1, max_size=8) as owner,
            TestClient(TestServer(app)) as client,
        ):
            yield cls(dsn, config, client, app[LEDGER], owner, tokens)

    @classmethod
    @asynccontextmanager
    async def fresh(cls, databases: Databases, news: News | None = None, **settings: Any) -> AsyncIterator[LedgerStack]:
        """Start it on a new database, which is dropped afterwards."""
        dsn = await databases.create(MIGRATIONS)
        try:
            async with cls.running(dsn, news=news, **settings) as stack:
                yield stack
        finally:
            await databases.drop(dsn)

    async def company(
        self, *, locations: int = 1, npis: Sequence[str] = (), time_zone: str = "America/New_York"
    ) -> Company:
        """A company with locations, whose EMR clinics are `clinic-<location id>`."""
        company = Company(self, uuid7(), [uuid7() for _ in range(locations)], await self.today(time_zone))
        await self.owner.execute(
            "insert into directory_company"
            " (company_id, version, code, name, service_type, time_zone, close_policy, npis)"
            " values ($1, 1, $2, $2, 'self_service', $3, 'deposit_date', $4)",
            company.company_id,
            f"C{next(_numbers)}",
            time_zone,
            list(npis),
        )
        await self.owner.executemany(
            "insert into directory_location (company_id, location_id, version, code, name, emr_location_id)"
            " values ($1, $2, 1, $3, $3, $4)",
            [(company.company_id, one, f"L{n}", clinic_of(one)) for n, one in enumerate(company.locations)],
        )
        await self.ledger.learn({company.company_id})
        return company

    async def emr_client(self, companies: Iterable[Company], *sources: str) -> str:
        """A registered EMR client; its id."""
        client_id = f"emr-{next(_numbers)}"
        await self.owner.execute(
            "insert into directory_client (client_id, version, name, kind, company_ids, sources)"
            " values ($1, 1, $1, 'emr', $2, $3)",
            client_id,
            [company.company_id for company in companies],
            list(sources),
        )
        return client_id

    async def today(self, time_zone: str) -> date:
        """The day in that zone, by the database's clock."""
        day: date = await self.owner.fetchval("select (clock_timestamp() at time zone $1)::date", time_zone)
        return day

    async def request(self, method: str, path: str, token: str | None, **arguments: Any) -> Answer:
        """Any request; `arguments` as aiohttp's (`json`, `data`, `params`, `headers`)."""
        headers = dict(arguments.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        async with self.client.request(method, path, headers=headers, **arguments) as response:
            return Answer(response.status, response.headers, await response.read())

    def internal(self) -> str:
        """A token of the services' own client."""
        return self.tokens.token("internal", None, client_id="internal", user_name="internal")

    async def rows(self, company_id: UUID | None = None) -> dict[str, int]:
        """How many rows every table holds, in all or of one company: to show that a refusal left no trace."""
        tables = await self.owner.fetch(
            "select table_name as name from information_schema.columns"
            " where table_schema = 'public' and column_name = 'company_id' and table_name not like 'directory%'"
        )
        where = "" if company_id is None else f" where company_id = '{company_id}'"
        found = {r["name"]: await self.owner.fetchval(f"select count(*) from {r['name']}{where}") for r in tables}
        found["version"] = await self.owner.fetchval(
            f"select coalesce(sum(version), 0)::bigint from company_book{where}"
        )
        return found


@dataclass(slots=True)
class Company:
    """One company's books. The short methods fail the test when the ledger refuses."""

    stack: LedgerStack
    company_id: UUID
    locations: list[UUID]
    today: date
    _tokens: dict[str, str] = field(default_factory=dict)

    # -- requests ------------------------------------------------------------------------------------------------

    def token(self, role: str = ADMIN, **claims: Any) -> str:
        """A token of a role in this company; the same one again for the same role."""
        if claims:
            return self.stack.tokens.token(role, self.company_id, **claims)
        if role not in self._tokens:
            self._tokens[role] = self.stack.tokens.token(role, self.company_id)
        return self._tokens[role]

    async def send(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, token: str | None = None, **more: Any
    ) -> Answer:
        """A request with a JSON body, and an Idempotency-Key for what takes one unless `key` is ''."""
        headers = dict(more.pop("headers", {}))
        if key != "" and method == "POST":
            headers.setdefault("Idempotency-Key", key or str(uuid4()))
        if body is not None:
            more["json"] = body
        return await self.stack.request(method, path, token or self.token(), headers=headers, **more)

    async def get(self, path: str, token: str | None = None, **params: Any) -> Any:
        """The document or list; anything but 200 fails."""
        answer = await self.send("GET", path, token=token, params={k: str(v) for k, v in params.items()})
        assert answer.status == 200, answer
        return answer.body

    async def post(self, path: str, body: Any = None, *, status: int = 201, **more: Any) -> Any:
        answer = await self.send("POST", path, body, **more)
        assert answer.status == status, answer
        return answer.body

    async def patch(self, path: str, body: Any) -> Any:
        answer = await self.send("PATCH", path, body)
        assert answer.status == 200, answer
        return answer.body

    # -- documents -----------------------------------------------------------------------------------------------

    async def patient(self, account_number: str = "", **fields: Any) -> Any:
        return await self.post("/v1/patients", patient_body(account_number, **fields))

    async def payer(self, **fields: Any) -> Any:
        return await self.post(
            "/v1/payers", {"code": f"P{next(_numbers)}", "name": f"Payer {next(_numbers)}", **fields}
        )

    async def charge(self, patient: Any, **fields: Any) -> Any:
        return await self.post("/v1/charges", self.charge_body(patient, **fields))

    def charge_body(self, patient: Any, **fields: Any) -> dict[str, Any]:
        return {
            "patient_id": patient["id"],
            "location_id": str(self.locations[0]),
            "date_of_service": "2026-01-05",
            "procedure_code": "97110",
            "units": 1,
            "amount_cents": 10_000,
            "diagnosis_codes": ["M54.5"],
            **fields,
        }

    async def payment(self, **fields: Any) -> Any:
        return await self.post("/v1/payments", self.payment_body(**fields))

    def payment_body(self, **fields: Any) -> dict[str, Any]:
        body = {
            "location_id": str(self.locations[0]),
            "method": "check",
            "check_number": "1001",
            "amount_cents": 10_000,
            "deposit_date": str(self.today),
            **fields,
        }
        return {name: value for name, value in body.items() if value is not None}

    async def upload(self, format: str, body: bytes, *, token: str | None = None, **headers: str) -> Answer:
        """Send a feed as it is."""
        headers.setdefault("Content-Type", FEED_TYPES[format])
        return await self.stack.request(
            "POST", f"/v1/feeds/{format}", token or self.token(), data=body, headers=headers
        )

    # -- what the books say --------------------------------------------------------------------------------------

    async def rows(self) -> dict[str, int]:
        return await self.stack.rows(self.company_id)

    async def totals(self, as_of_version: int | None = None) -> Any:
        """Control totals by their words, without the empty rows of receipts that were withdrawn."""
        params = {} if as_of_version is None else {"as_of_version": str(as_of_version)}
        document = await self.get("/v1/control-totals", **params)
        return cells(document["items"])

    async def sums(self) -> dict[str, int]:
        """The figures of all receipts together."""
        summed: Counter[str] = Counter()
        for figures in (await self.totals()).values():
            summed.update(dict(figures))
        return {name: summed[name] for name in FIGURES}

    async def events(self) -> list[Event[PostingEvent]]:
        """The whole log, in order, each checked against its contract."""
        found: list[Event[PostingEvent]] = []
        after = 0
        while True:
            answer = await self.stack.request(
                "GET",
                "/v1/events",
                self.stack.internal(),
                params={"company_id": str(self.company_id), "after_version": str(after), "limit": "500"},
            )
            assert answer.status == 200, answer
            found += [Event[PostingEvent].model_validate(item) for item in answer.body["items"]]
            if answer.body["next"] is None:
                return found
            after = answer.body["next"]

    async def exceptions(self, **params: Any) -> list[Any]:
        items: list[Any] = (await self.get("/v1/exceptions", limit=500, **params))["items"]
        return items

    async def reasons(self, **params: Any) -> Counter[str]:
        return Counter(row["reason"] for row in await self.exceptions(**params))


FIGURES = ("payments", "amount_cents", "applied_cents", "adjusted_cents", "provider_level_cents", "unapplied_cents")
WORDS = ("location_id", "deposit_date", "posting_date", "source", "affiliation")


def cells(items: Iterable[Mapping[str, Any]]) -> dict[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """Rows of control totals as words -> figures; a row whose figures are all zero says nothing."""
    return {
        tuple(str(item[name]) for name in WORDS): tuple((name, item[name]) for name in FIGURES)
        for item in items
        if any(item[name] for name in FIGURES)
    }


def fold(events: Iterable[Event[PostingEvent]], up_to: int | None = None) -> dict[tuple[str, ...], Any]:
    """What a reader that only adds makes of the events: the same cells as `control-totals`, from other facts."""
    sums: dict[tuple[str, ...], Counter[str]] = {}
    for event in events:
        for posting in event.data.postings:
            if up_to is not None and posting.version > up_to:
                continue
            for receipt in posting.receipts:
                cell = sums.setdefault(tuple(str(getattr(receipt, name)) for name in WORDS), Counter())
                cell["payments"] += receipt.count
                for part in receipt.parts:
                    cell[f"{part.kind}_cents"] += part.amount_cents
                    cell["amount_cents"] += part.amount_cents if part.kind != "adjusted" else 0
    return cells(
        {**dict(zip(WORDS, words, strict=True)), **{n: cell[n] for n in FIGURES}} for words, cell in sums.items()
    )


def clinic_of(location_id: UUID) -> str:
    return f"clinic-{location_id}"


def patient_body(account_number: str = "", **fields: Any) -> dict[str, Any]:
    return {
        "account_number": account_number or f"A{next(_numbers)}",
        "first_name": "Pat",
        "last_name": "Doe",
        "date_of_birth": "1980-02-29",
        **fields,
    }


def counts(feed: Any) -> tuple[int, ...]:
    """The counts of a feed's document: whatever was received is one of the others."""
    found = tuple(feed[name] for name in COUNTS)
    assert found[0] == sum(found[1:]), feed
    return found


def days(count: int, start: date | None = None) -> date:
    return (start or datetime.now(UTC).date()) + timedelta(days=count)


async def together(*work: Any) -> list[Any]:
    """Run at once; the first error fails the test."""
    return list(await asyncio.gather(*work))


def instant(text: str) -> bool:
    """RFC 3339 in UTC."""
    return len(text) in range(20, 28) and text[10] == "T" and text.endswith("Z")
