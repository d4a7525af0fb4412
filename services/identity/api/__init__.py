"""HTTP of identity: one module by subject, joined here."""

from __future__ import annotations

from typing import Final

from services.identity.api import (
    break_glass,
    clients,
    companies,
    factors,
    me,
    oidc,
    passkeys,
    records,
    roles,
    sessions,
    tokens,
    users,
)
from shared.web import Endpoint

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    *tokens.ENDPOINTS,
    *passkeys.ENDPOINTS,
    *oidc.ENDPOINTS,
    *me.ENDPOINTS,
    *factors.ENDPOINTS,
    *sessions.ENDPOINTS,
    *companies.ENDPOINTS,
    *users.ENDPOINTS,
    *roles.ENDPOINTS,
    *clients.ENDPOINTS,
    *break_glass.ENDPOINTS,
    *records.ENDPOINTS,
)
