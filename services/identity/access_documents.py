"""What `/access` answers: what a user sees and why, a role previewed, and who sees a location."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from services.identity.documents import CodeName, Document


class AccessLine(Document):
    area: str
    level: str
    scope: str | None
    rule: str
    requirements: tuple[str, ...]
    source: str


class AccessReason(Document):
    holds: bool
    requirement: str
    text: str


class AccessCompany(CodeName):
    """`admitted`: whether the user gets in there now, which is when every reason holds."""

    service_type: str
    admitted: bool
    reasons: tuple[AccessReason, ...]


class FieldRefusal(Document):
    field: str
    code: str
    message: str


class ViewerDocument(Document):
    """Somebody who sees rows of a location, and where."""

    id: UUID
    user_name: str
    role: str
    role_label: str
    areas: tuple[AccessLine, ...]


class AccessDifference(Document):
    area: str
    level: str
    scope: str | None
    new_level: str
    new_scope: str | None
    rule: str


class AccessPreview(Document):
    """`refused` says why the role cannot be given to this user, null when it can; `refusals` each rule by itself.
    `gained`, `lost`, `changed` (more here and less there) and `unchanged` name every area once."""

    role: str
    role_label: str
    refused: str | None
    refusals: tuple[FieldRefusal, ...]
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    differences: tuple[AccessDifference, ...]


class AccessDocument(Document):
    user_id: UUID
    user_name: str
    user_type: str
    role: str
    role_label: str
    active: bool
    second_factor: bool
    companies: tuple[AccessCompany, ...]
    emr_locations: Literal["*"] | tuple[CodeName, ...]
    areas: tuple[AccessLine, ...]
    preview: AccessPreview | None
