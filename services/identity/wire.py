"""What callers send: strict bodies and queries. What they get is in `documents`."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

from shared.fields import Affiliation, Body, Code, Id, Line, Npi, Query
from shared.web.lists import WholeList

_MAX_SET = 500


@cache
def _time_zones() -> frozenset[str]:
    """IANA names as people mean them: `Area/Place`, or UTC. Not abbreviations, not the host's own `localtime`."""
    return frozenset(name for name in available_timezones() if "/" in name or name == "UTC")


def _time_zone(name: str) -> str:
    if name not in _time_zones():
        raise PydanticCustomError("unknown_time_zone", "Must be the IANA name of a time zone, as America/New_York")
    return name


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) != len(values):
        raise PydanticCustomError("repeated", "Must not be repeated")
    return values


Item = TypeVar("Item")
Several = Annotated[list[Item], Field(max_length=_MAX_SET), AfterValidator(_distinct)]
TimeZone = Annotated[str, StringConstraints(max_length=64), AfterValidator(_time_zone)]
ServiceType = Literal["revserve", "revequip", "self_service"]
ClosePolicy = Literal["deposit_date", "posting_date"]
UserType = Literal["partner", "customer"]
# ASCII, so that no two names look alike and differ (quality case 82); case is ignored by the database.
UserName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._@+-]{1,100}$")]
RoleKey = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,60}$")]
# The pattern of HTML's e-mail field.
Email = Annotated[
    str,
    StringConstraints(
        max_length=254, pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*$"
    ),
]
# The URI reference by which an EMR names itself in CloudEvents.
Source = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}$")]


class New(Body):
    """A thing to be made."""

    def given(self) -> dict[str, Any]:
        """The fields that have a value, lists as tuples."""
        values = {name: _tuple(getattr(self, name)) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if value is not None}


class Patch(Body):
    """A change: fields not given stay. Null is refused unless the field may be empty."""

    nullable: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*", mode="before")
    @classmethod
    def _no_null(cls, value: Any, info: Any) -> Any:
        if value is None and info.field_name not in cls.nullable:
            raise PydanticCustomError("null", "Must not be null")
        return value

    def given(self) -> dict[str, Any]:
        """The fields that the body had."""
        return {name: _tuple(getattr(self, name)) for name in self.model_fields_set}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class CompanyNew(New):
    code: Code
    name: Line
    service_type: ServiceType
    time_zone: TimeZone
    close_policy: ClosePolicy
    npis: Several[Npi] = Field(default_factory=list)
    mfa_required: bool = False


class CompanyChange(Patch):
    code: Code | None = None
    name: Line | None = None
    service_type: ServiceType | None = None
    time_zone: TimeZone | None = None
    close_policy: ClosePolicy | None = None
    npis: Several[Npi] | None = None
    mfa_required: bool | None = None
    active: bool | None = None


class LocationNew(New):
    code: Code
    name: Line
    emr_location_id: Line | None = None
    active: bool = True


class LocationChange(Patch):
    nullable = frozenset({"emr_location_id"})

    code: Code | None = None
    name: Line | None = None
    emr_location_id: Line | None = None
    active: bool | None = None


class UserNew(New):
    """`must_change_password`: the password signs in for three days, and only to choose another."""

    user_name: UserName
    first_name: Line
    last_name: Line
    email: Email
    user_type: UserType
    role: RoleKey
    password: str | None = None
    must_change_password: bool = False
    affiliation: Affiliation = "practice"
    company_ids: Several[Id] | None = None
    default_company_id: Id | None = None
    emr_location_ids: Several[Id] = Field(default_factory=list)
    active: bool = True


class UserChange(Patch):
    """`must_change_password`: as for a new user, of the password that is given with it."""

    user_name: UserName | None = None
    first_name: Line | None = None
    last_name: Line | None = None
    email: Email | None = None
    user_type: UserType | None = None
    role: RoleKey | None = None
    password: str | None = None
    must_change_password: bool = False
    affiliation: Affiliation | None = None
    company_ids: Several[Id] | None = None
    default_company_id: Id | None = None
    emr_location_ids: Several[Id] | None = None
    active: bool | None = None


class ClientNew(New):
    name: Line
    kind: Literal["emr"]
    company_ids: Annotated[Several[Id], Field(min_length=1)]
    sources: Several[Source] = Field(default_factory=list)


class BreakGlassNew(Body):
    """Why is required, so that whoever looks later understands; it is shown to the company."""

    company_id: Id
    reason: Annotated[Line, StringConstraints(min_length=10, max_length=500)]
    minutes: int = Field(ge=5, le=60)


TypedCode = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Ticket = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,4096}$")]


class CodeBody(Body):
    """A code of the authenticator app, or where it says so a recovery code."""

    code: TypedCode


class FactorQuery(Query):
    """`end_other_sessions`: all of the caller's but the one that he calls with."""

    end_other_sessions: bool = False


class PasswordChange(Body):
    old_password: str
    password: str


class PasswordReset(Body):
    user_name: Annotated[str, StringConstraints(min_length=1, max_length=1_000)]
    code: TypedCode
    password: str


class PasskeyNew(Body):
    """`credential`: what the browser gives (`PublicKeyCredential.toJSON()`)."""

    name: Line
    credential: dict[str, Any]


class PasskeySignIn(Body):
    """`refresh_token`: of a session that ends with this sign-in."""

    credential: dict[str, Any]
    company_id: str | None = None
    refresh_token: Ticket | None = None


class OidcFinish(Body):
    """`state`, `code` and `iss` are the provider's answer (RFC 9207 for the last), `handle` what the start gave;
    `refresh_token` is of a session that ends with this sign-in."""

    handle: Ticket
    state: Ticket
    code: Annotated[str, StringConstraints(pattern=r"^[ -~]{1,4096}$")]
    iss: str | None = None
    company_id: str | None = None
    refresh_token: Ticket | None = None


class PageQuery(Query):
    limit: int = Field(default=50, ge=1, le=500)
    cursor: Id | None = None


class EventsQuery(Query):
    after: int = Field(default=0, ge=0, lt=1 << 63)
    limit: int = Field(default=100, ge=1, le=500)


class RolesQuery(WholeList):
    service_type: ServiceType | None = None
    format: Literal["json", "csv"] | None = None


class RoleQuery(Query):
    format: Literal["json", "csv"] | None = None


class AccessQuery(Query):
    role: RoleKey | None = None
