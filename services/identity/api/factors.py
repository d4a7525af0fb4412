"""`/v1/me/totp`, `/v1/me/recovery-codes`: a person's second factors (RFC 6238)."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from services.identity.api.common import ENROLLING, PERSON, address, document, services
from services.identity.documents import MfaDocument, NewTotpDocument, RecoveryCodesDocument
from services.identity.wire import CodeBody, FactorQuery
from shared.web import Call, Endpoint


async def _status(call: Call) -> web.StreamResponse:
    return document(MfaDocument, await services(call).factors.status(call.principal))


async def _begin(call: Call) -> web.StreamResponse:
    return document(NewTotpDocument, await services(call).factors.begin_totp(call.principal), 201)


async def _confirm(call: Call) -> web.StreamResponse:
    codes = await services(call).factors.confirm_totp(
        call.principal, call.body.code, address(), end_others=call.query.end_other_sessions
    )
    return document(RecoveryCodesDocument, {"recovery_codes": list(codes)})


async def _remove(call: Call) -> web.StreamResponse:
    await services(call).factors.remove_totp(
        call.principal, call.body.code, address(), end_others=call.query.end_other_sessions
    )
    return web.Response(status=204)


async def _renew(call: Call) -> web.StreamResponse:
    codes = await services(call).factors.renew_recovery_codes(call.principal, end_others=call.query.end_other_sessions)
    return document(RecoveryCodesDocument, {"recovery_codes": list(codes)}, 201)


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/me/mfa", _status, ENROLLING, "One's own second factors", answer=MfaDocument),
    Endpoint(
        "POST",
        "/v1/me/totp",
        _begin,
        ENROLLING,
        "Begin to use an authenticator app; the secret is shown once",
        answer=NewTotpDocument,
        status=201,
    ),
    Endpoint(
        "POST",
        "/v1/me/totp/confirm",
        _confirm,
        ENROLLING,
        "Confirm the app with a code of it; recovery codes are shown once",
        query=FactorQuery,
        body=CodeBody,
        answer=RecoveryCodesDocument,
        also=(404,),
    ),
    Endpoint(
        "DELETE",
        "/v1/me/totp",
        _remove,
        PERSON,
        "Stop using the app, with a code of it or a recovery code",
        query=FactorQuery,
        body=CodeBody,
        status=204,
        also=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/me/recovery-codes",
        _renew,
        PERSON,
        "Ten new recovery codes in place of the old ones, shown once",
        query=FactorQuery,
        answer=RecoveryCodesDocument,
        status=201,
    ),
)
