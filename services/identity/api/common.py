"""What the handlers share: the use cases by one key, and answers made of documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from aiohttp import web

from services.identity.documents import Document, Page
from services.identity.service.access import AccessVersions
from services.identity.service.break_glass import Emergencies
from services.identity.service.clients import Clients
from services.identity.service.companies import Companies
from services.identity.service.external import ExternalSignIn
from services.identity.service.factors import SecondFactors
from services.identity.service.passkeys import Passkeys
from services.identity.service.passwords import Passwords
from services.identity.service.sessions import Sessions
from services.identity.service.sign_in import SignIn
from services.identity.service.users import Users
from services.identity.service.views import Views
from shared.access.principal import Guard
from shared.access.tokens import TokenVerifier
from shared.address import UNKNOWN
from shared.audit import current_address
from shared.config import Config
from shared.recorder import tell_rows
from shared.web import Call, json_response


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a handler can ask for."""

    config: Config
    verifier: TokenVerifier
    sign_in: SignIn
    passkeys: Passkeys
    external: ExternalSignIn
    factors: SecondFactors
    passwords: Passwords
    sessions: Sessions
    companies: Companies
    users: Users
    clients: Clients
    views: Views
    emergencies: Emergencies
    access_versions: AccessVersions


SERVICES: Final = web.AppKey("services", Services)


def services(call: Call) -> Services:
    return call.app[SERVICES]


PERSON: Final = Guard(member=True, operator=True)
"""Whoever signs in as a person."""
ENROLLING: Final = Guard(member=True, operator=True, enrolment=True)
"""The same, and who has yet to enrol the second factor that his company requires."""
CHANGING: Final = Guard(member=True, operator=True, password_change=True)
"""The same, and who has to choose a password of his own first."""


def address() -> str:
    """Where the request comes from that is worked on, as far as we know."""
    return current_address() or UNKNOWN


class HasId(Protocol):
    @property
    def id(self) -> UUID: ...


Thing = TypeVar("Thing", bound=HasId)


def document(model: type[Document], thing: Any, status: int = 200) -> web.Response:
    """One thing, as its document."""
    return json_response(model.model_validate(thing).model_dump_json().encode(), status)


def page(model: type[Document], things: Sequence[HasId], limit: int) -> web.Response:
    """A page of a list. `things` holds one more than `limit` when there are more; the last one shown is the cursor."""
    shown = things[:limit]
    following = shown[-1].id if len(things) > limit else None
    answer = document(Page[model], {"items": list(shown), "next": following})  # type: ignore[valid-type]
    tell_rows(answer, shown)
    return answer
