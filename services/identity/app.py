"""Identity's application: pool, use cases and routes joined; what must exist is made at start."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
from aiohttp import web
from prometheus_client import CollectorRegistry

from services.identity.api import ENDPOINTS
from services.identity.api.common import SERVICES, Services
from services.identity.breached import BreachedPasswords
from services.identity.domain import PASSWORD_LENGTHS
from services.identity.oidc import Provider
from services.identity.passkeys import RelyingParty
from services.identity.passwords import Hasher
from services.identity.sealing import Sealer
from services.identity.service.access import AccessVersions, CurrentVerifier
from services.identity.service.bootstrap import bootstrap
from services.identity.service.break_glass import Emergencies
from services.identity.service.clients import Clients
from services.identity.service.companies import Companies
from services.identity.service.external import ExternalSignIn
from services.identity.service.factors import SecondFactors
from services.identity.service.issuing import SessionIssuer
from services.identity.service.passkeys import Passkeys
from services.identity.service.password_rules import PasswordRules
from services.identity.service.passwords import Passwords
from services.identity.service.sessions import Sessions
from services.identity.service.sign_in import SignIn
from services.identity.service.throttle import Throttle
from services.identity.service.users import Users
from services.identity.service.views import Views
from services.identity.store import ROLE
from services.identity.tokens import Issuer
from shared import web as shared_web
from shared.access.tokens import KeyCache, TokenVerifier
from shared.config import Config
from shared.db import KEYED_PLANS, create_pool, ping
from shared.migrate import check_migrated
from shared.recorder import Recorder

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_OWN_KEYS_SECONDS: Final = 5
POOL: Final = web.AppKey("pool", asyncpg.Pool)


def create_app(config: Config, *, hasher: Hasher | None = None) -> web.Application:
    """The API of identity. Tests may inject a cheaper password hasher; without one it is the real one."""
    passwords = hasher or Hasher()

    async def own_keys() -> Mapping[str, Any]:
        return await app[SERVICES].views.public_keys()

    async def database() -> None:
        await ping(app[POOL])

    async def migrations() -> None:
        await check_migrated(app[POOL], MIGRATIONS)

    # Reading our own keys is one query: a withdrawn one is refused here within seconds.
    keys = KeyCache(own_keys, fresh_seconds=_OWN_KEYS_SECONDS)
    verifier = CurrentVerifier(keys, lambda: app[POOL], issuer=config.issuer, audience=config.audience)
    # Who signs out may do so with a token that is stale.
    signed = TokenVerifier(keys, issuer=config.issuer, audience=config.audience)

    async def running(app: web.Application) -> AsyncIterator[None]:
        dsn = config.required("identity_database_url")
        sealer = Sealer(config.required("identity_secrets_key"))
        party, provider = RelyingParty(config.public_url), _provider(config)
        rules = PasswordRules(BreachedPasswords(config.breached_passwords) if config.breached_passwords else None)
        pool = app[POOL] = await create_pool(dsn, name="identity-api", role=ROLE, settings=KEYED_PLANS)
        issuing, throttle = _issuing(config, sealer), Throttle(pool)
        app[SERVICES] = Services(
            config=config,
            verifier=verifier,
            sign_in=SignIn(pool, passwords, issuing, signed, throttle),
            passkeys=Passkeys(pool, party, issuing),
            external=ExternalSignIn(pool, provider, issuing),
            factors=SecondFactors(pool, sealer, throttle),
            passwords=Passwords(pool, passwords, rules, throttle),
            sessions=Sessions(pool),
            companies=Companies(pool),
            users=Users(pool, passwords, rules),
            clients=Clients(pool),
            views=Views(pool),
            emergencies=Emergencies(pool, issuing),
            access_versions=AccessVersions(pool),
        )
        try:
            operator, internal = _operator_password(config), _secret(config, "internal_client_secret")
            await bootstrap(pool, passwords, sealer, operator_password=operator, internal_secret=internal, say=_say)
            audit.start(pool)
            yield
        finally:
            await audit.close()
            await pool.close()
            rules.close()
            if hasher is None:
                passwords.close()

    registry = CollectorRegistry()
    audit = Recorder(registry, writes=False)
    parts = shared_web.AppParts(
        name="identity",
        title="Identity: companies, users, roles and tokens",
        endpoints=ENDPOINTS,
        verifier=verifier,
        audit=audit,
        config=config,
        ready={"database": database, "migrations": migrations},
        registry=registry,
    )
    app = shared_web.create_app(parts)
    app.cleanup_ctx.append(running)
    return app


def _issuing(config: Config, sealer: Sealer) -> SessionIssuer:
    return SessionIssuer(
        Issuer(config.issuer, config.audience, config.access_token_seconds),
        sealer,
        idle=timedelta(seconds=config.session_idle_seconds),
        longest=timedelta(seconds=config.session_seconds),
        operator_mfa=config.operator_mfa_required,
    )


def _provider(config: Config) -> Provider | None:
    """The external provider to sign in with, if one is set."""
    if not config.oidc_issuer:
        return None
    if not config.oidc_client_id:
        raise SystemExit("OIDC_CLIENT_ID must be set together with OIDC_ISSUER")
    redirect_url = config.oidc_redirect_url or config.public_url.rstrip("/") + "/"
    return Provider(config.oidc_issuer, config.oidc_client_id, _secret(config, "oidc_client_secret"), redirect_url)


def _secret(config: Config, name: str) -> str | None:
    value = getattr(config, name)
    return value.get_secret_value() or None if value is not None else None


def _operator_password(config: Config) -> str | None:
    password = _secret(config, "operator_password")
    if password is not None and len(password) not in PASSWORD_LENGTHS:
        raise SystemExit("OPERATOR_PASSWORD must have 8 to 256 characters")
    return password


def _say(line: str) -> None:
    """To standard output and not to the logs, which are kept."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
