"""What the handlers share: the use cases by one key, and answers made of documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from aiohttp import web

from services.identity.documents import Document, Page
from services.identity.service.clients import Clients
from services.identity.service.companies import Companies
from services.identity.service.sign_in import SignIn
from services.identity.service.users import Users
from services.identity.service.views import Views
from services.identity.tokens import Issuer
from shared.access.tokens import TokenVerifier
from shared.config import Config
from shared.web import Call, json_response


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a handler can ask for."""

    config: Config
    issuer: Issuer
    verifier: TokenVerifier
    sign_in: SignIn
    companies: Companies
    users: Users
    clients: Clients
    views: Views


SERVICES: Final = web.AppKey("services", Services)


def services(call: Call) -> Services:
    return call.app[SERVICES]


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
    return document(Page[model], {"items": list(shown), "next": following})  # type: ignore[valid-type]
