"""The demo practice: a company with three clinics, its people, and a second company of Self-Service type.

What is there already is found by its code or name and left alone, so that an interrupted demo can go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from deploy.demo.api import Api, Caller

TIME_ZONE: Final = "America/New_York"
NPI: Final = "1234567893"
EMR_SOURCE: Final = "https://emr.riverside.example/billing"
_EMR_CLIENT: Final = "Riverside EMR"

_COMPANY: Final = {
    "code": "RVR",
    "name": "Riverside Physical Therapy",
    "service_type": "revequip",
    "time_zone": TIME_ZONE,
    "close_policy": "deposit_date",
    "npis": [NPI],
}
_SELF_SERVICE: Final = {
    "code": "HPT",
    "name": "Hillside PT (Self-Service)",
    "service_type": "self_service",
    "time_zone": "America/Chicago",
    "close_policy": "posting_date",
}
_LOCATIONS: Final = (
    {"code": "DTN", "name": "Downtown", "emr_location_id": "EMR-101"},
    {"code": "NTH", "name": "Northside", "emr_location_id": "EMR-102"},
    {"code": "LKS", "name": "Lakeside", "emr_location_id": "EMR-103"},
)
RESTRICTED_TO: Final = "LKS"


@dataclass(frozen=True, slots=True)
class Person:
    """A demo user, and what his line on the screen says."""

    user_name: str
    first_name: str
    last_name: str
    role: str
    user_type: str
    about: str
    more: dict[str, Any] = field(default_factory=dict)


ADMIN: Final = "practice.admin"
RESTRICTED: Final = "restricted.biller"
POSTER: Final = "poster.one"
PEOPLE: Final = (
    Person(ADMIN, "Dana", "Brooks", "practice_admin", "customer", "Practice Admin"),
    Person("front.office", "Fiona", "Park", "front_office", "customer", "Front Office"),
    Person(
        RESTRICTED,
        "Logan",
        "Frye",
        "front_office_emr_restricted",
        "customer",
        "Front Office Billing - EMR Access Restriction (Lakeside only)",
    ),
    Person("provider", "Priya", "Nair", "provider", "customer", "Provider"),
    Person("partner.admin", "Omar", "Reed", "partner_admin", "partner", "Partner Admin"),
    Person(POSTER, "Paula", "Ortiz", "partner_payment_poster", "partner", "Partner Payment Poster"),
    Person("poster.two", "Quentin", "Hale", "partner_payment_poster", "partner", "Partner Payment Poster"),
    Person(
        "rcm.poster",
        "Rita",
        "Banks",
        "partner_payment_poster",
        "partner",
        "Partner Payment Poster, RCM staff",
        {"affiliation": "rcm"},
    ),
    Person("csr", "Sam", "Ellery", "partner_csr", "partner", "Partner Customer Service Representative"),
)
SELF_SERVICE_ADMIN: Final = Person(
    "selfservice.admin", "Tess", "Young", "self_service_admin", "partner", "Self Service Admin (Hillside PT)"
)


@dataclass(frozen=True, slots=True)
class Practice:
    """What the rest of the demo needs to know: location ids by code, and callers by user name."""

    locations: dict[str, str]
    emr: Caller
    callers: dict[str, Caller]

    def __getitem__(self, user_name: str) -> Caller:
        return self.callers[user_name]


async def build(api: Api, operator: Caller, password: str) -> Practice:
    """Make what is missing, as the operator, and sign everybody in who will work."""
    companies = {row["code"]: row for row in await operator.everything("/identity/v1/companies")}
    users = {row["user_name"] for row in await operator.everything("/identity/v1/users")}
    company_id = await _company(operator, companies, _COMPANY)
    locations = await _locations(operator, company_id, _LOCATIONS)
    for person in PEOPLE:
        if person.user_name not in users:
            own = [locations[RESTRICTED_TO]] if person.user_name == RESTRICTED else []
            await _user(operator, person, company_id, password, emr_location_ids=own)
    other_id = await _company(operator, companies, _SELF_SERVICE)
    await _locations(operator, other_id, ({"code": "MAIN", "name": "Hillside"},))
    if SELF_SERVICE_ADMIN.user_name not in users:
        await _user(operator, SELF_SERVICE_ADMIN, other_id, password)
    emr = await _emr_client(api, operator, company_id)
    workers = [person.user_name for person in PEOPLE if person.role != "provider"]
    return Practice(locations, emr, {name: await api.sign_in(name, password) for name in workers})


async def _company(operator: Caller, known: dict[str, Any], body: dict[str, Any]) -> str:
    found = known.get(body["code"]) or await operator.post("/identity/v1/companies", body)
    return str(found["id"])


async def _locations(operator: Caller, company_id: str, bodies: tuple[dict[str, str], ...]) -> dict[str, str]:
    path = f"/identity/v1/companies/{company_id}/locations"
    known = {row["code"]: row["id"] for row in await operator.everything(path)}
    for body in bodies:
        if body["code"] not in known:
            known[body["code"]] = (await operator.post(path, body))["id"]
    return known


async def _user(operator: Caller, person: Person, company_id: str, password: str, **more: Any) -> None:
    body = {
        "user_name": person.user_name,
        "first_name": person.first_name,
        "last_name": person.last_name,
        "email": f"{person.user_name}@riverside.example",
        "password": password,
        "user_type": person.user_type,
        "role": person.role,
        "company_ids": [company_id],
        **person.more,
        **more,
    }
    await operator.post("/identity/v1/users", body)


async def _emr_client(api: Api, operator: Caller, company_id: str) -> Caller:
    """A machine client's secret is shown once and not kept here: one left over from an interruption is replaced."""
    for row in await operator.everything("/identity/v1/clients"):
        if row["name"] == _EMR_CLIENT:
            await operator.delete(f"/identity/v1/clients/{row['id']}")
    body = {"name": _EMR_CLIENT, "kind": "emr", "company_ids": [company_id], "sources": [EMR_SOURCE]}
    made = await operator.post("/identity/v1/clients", body)
    return await api.client(made["client_id"], made["client_secret"])
