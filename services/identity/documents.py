"""What callers get: documents made from the domain's objects, so that nothing else of them is shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """Base of answers."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


class CompanyDocument(Document):
    id: UUID
    code: str
    name: str
    service_type: str
    time_zone: str
    close_policy: str
    npis: tuple[str, ...]
    mfa_required: bool
    active: bool
    version: int


class LocationDocument(Document):
    id: UUID
    company_id: UUID
    code: str
    name: str
    emr_location_id: str | None
    active: bool
    version: int


class UserDocument(Document):
    id: UUID
    user_name: str
    first_name: str
    last_name: str
    email: str
    user_type: str
    role: str
    affiliation: str
    company_ids: tuple[UUID, ...]
    default_company_id: UUID | None
    emr_location_ids: tuple[UUID, ...]
    active: bool
    version: int


class ClientDocument(Document):
    id: UUID
    client_id: str
    name: str
    kind: str
    company_ids: tuple[UUID, ...]
    sources: tuple[str, ...]
    active: bool


class NewClientDocument(ClientDocument):
    """With the secret, which is shown this once."""

    client_secret: str


class GrantDocument(Document):
    level: str
    scope: str | None
    basis: str


class RoleDocument(Document):
    key: str
    label: str
    service_types: tuple[str, ...]
    user_type: str | None
    assignable_roles: tuple[str, ...]
    areas: Mapping[str, GrantDocument]


class CodeName(Document):
    """Enough of a company or location to show it."""

    id: UUID
    code: str
    name: str


class MenuEntry(Document):
    menu: str
    label: str
    area: str


class MeDocument(Document):
    id: UUID
    user_name: str
    first_name: str | None
    last_name: str | None
    email: str | None
    user_type: str
    affiliation: str
    role: str
    role_label: str
    companies: tuple[CodeName, ...]
    company_id: UUID | None
    default_company_id: UUID | None
    emr_locations: Literal["*"] | tuple[CodeName, ...]
    permissions: Mapping[str, GrantDocument]
    menu: tuple[MenuEntry, ...]


class EventItem(Document):
    position: int
    event: Mapping[str, Any]


class EventPage(Document):
    items: tuple[EventItem, ...]
    next: int | None


class AccessItem(Document):
    """`subject`: a user's or client's id, as in `sub`; null: everybody. Tokens of a lower version are stale."""

    subject: UUID | None
    authz_version: int
    not_before: int


class AccessPage(Document):
    """`next`: what to ask for as `after`, if there are more."""

    items: tuple[AccessItem, ...]
    next: int | None


Shown = TypeVar("Shown", bound=Document)


class Page(Document, Generic[Shown]):
    items: tuple[Shown, ...]
    next: UUID | None


class BreakGlassDocument(Document):
    id: UUID
    company_id: UUID
    user_id: UUID
    reason: str
    opened_at: datetime
    expires_at: datetime


class BreakGlassTokenDocument(Document):
    """`expires_in` seconds, never beyond the grant; there is no refresh token."""

    access_token: str
    token_type: str
    expires_in: int
    company_id: UUID


class NewBreakGlassDocument(BreakGlassDocument, BreakGlassTokenDocument):
    """A grant with its first token."""


class TokenDocument(Document):
    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str | None = None
    scope: str | None = None
    company_id: UUID | None


class MfaDocument(Document):
    """The second factors that a person has."""

    totp: bool
    passkeys: int
    recovery_codes_left: int


class NewTotpDocument(Document):
    """Shown once. `otpauth_uri` is what an authenticator app reads from a QR code."""

    secret: str
    otpauth_uri: str


class RecoveryCodesDocument(Document):
    """Shown once; each works once, in place of a code of the authenticator app."""

    recovery_codes: tuple[str, ...]


class PasskeyDocument(Document):
    id: UUID
    name: str
    created_at: datetime
    used_at: datetime | None


class PasskeyList(Document):
    """All of them: there are at most ten."""

    items: tuple[PasskeyDocument, ...]
    next: None = None


class SessionDocument(Document):
    """`expires_at`: when it ends unless it is refreshed before; `ends_at`: when it ends anyway."""

    id: UUID
    company_id: UUID | None
    methods: tuple[str, ...]
    started_at: datetime
    issued_at: datetime
    expires_at: datetime
    ends_at: datetime
    current: bool


class SessionList(Document):
    items: tuple[SessionDocument, ...]
    next: None = None


class ResetCodeDocument(Document):
    """Shown once, to be handed to the user."""

    code: str
    expires_at: datetime


class OidcStartDocument(Document):
    """Send the browser to `authorization_url`; keep `handle` in the page that asked, and bring it back."""

    authorization_url: str
    handle: str
