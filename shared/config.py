"""Settings by environment, read once at start; the same names in compose, in the embedded run and in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.address import Network, Proxies
from shared.tls import is_verified


class Config(BaseSettings):
    """Everything a process may be told. A process reads only what it needs; secrets never print."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = 8080
    health_port: int = 0
    """Port of `/livez`, `/readyz` and `/metrics` for processes without an API; 0: none."""
    tls_certificate: Path | None = None
    """Certificate chain in PEM, with which the API or the health port is served by HTTPS only; with its key in
    `tls_key`, unless both are in one file. Whom a process trusts when it calls others (https, amqps) is said by
    OpenSSL's SSL_CERT_FILE and SSL_CERT_DIR (each has a default, both count), and in the address of a database
    (`sslmode=verify-full&sslrootcert=`)."""
    tls_key: Path | None = None

    mllp_port: int = 2575
    """Port on which the ledger takes HL7 v2 messages (MLLP); 0: none."""
    mllp_tls_cert: Path | None = None
    """Certificate chain in PEM, without which MLLP is unencrypted; with its key in `mllp_tls_key`, unless both are in
    one file."""
    mllp_tls_key: Path | None = None

    watch_dir: Path | None = None
    """Directory in which the ledger looks for files of its companies (an SFTP drop); None: nowhere."""

    seal_dir: Path | None = None
    """Directory, outside of the databases, in which the signed heads of the sealed audit are kept; None: nowhere."""
    seal_key: SecretStr | None = None
    """EC key (P-256, PEM) that signs them; made and kept in `seal_dir` when absent."""

    identity_database_url: SecretStr | None = None
    ledger_database_url: SecretStr | None = None
    reporting_database_url: SecretStr | None = None
    """Where a service's processes sign in, as a role that owns nothing (deploy/postgres/login.sql)."""
    identity_owner_database_url: SecretStr | None = None
    ledger_owner_database_url: SecretStr | None = None
    reporting_owner_database_url: SecretStr | None = None
    """The same database for its owner: told to `migrate` and `rebuild`, and to nothing that serves anybody."""
    plain_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts of databases, separated by commas, that may be spoken to without TLS, as may this machine: every other
    database's address must ask for `sslmode=verify-full`."""
    amqp_url: SecretStr | None = None
    """None: the in-process loopback transport (embedded run only)."""

    identity_url: str = "http://127.0.0.1:8081"
    ledger_url: str = "http://127.0.0.1:8082"
    issuer: str = "billing-identity"
    """The `iss` of tokens, a name and not an address: it must not change with the proxy in front."""
    audience: str = "billing"

    operator_password: SecretStr | None = None
    """Password of the bootstrap user `operator`; generated and printed once when absent (embedded run)."""
    operator_mfa_required: bool = False
    """True: the operator needs a second factor; while he has none he gets a token for its enrolment only."""
    internal_client_secret: SecretStr | None = None
    """Secret shared by the services' own client (`client_id` "internal")."""
    identity_secrets_key: SecretStr | None = None
    """What identity's stored secrets are sealed with, at least 32 characters: signing keys and TOTP secrets. Several,
    separated by commas: the first seals, the others still open."""

    breached_passwords: Path | None = None
    """Pwned Passwords as Have I Been Pwned gives them to download (sorted lines `SHA1:COUNT`), which nobody may choose;
    None: only the common ones are refused."""

    public_url: str = "http://localhost:8080"
    """Where browsers find the product. Passkeys are bound to its host name, which cannot be an IP address."""
    behind_proxy: bool = False
    """True: a caller's address is the last one in `X-Forwarded-For`, which the proxy in front sets."""
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = ()
    """Addresses and networks, separated by commas, of proxies in front of that one: an entry in `X-Forwarded-For` that
    is one of theirs is passed over, and the one before it counts."""

    calls_per_second: int = Field(default=200, ge=0)
    """Calls of one caller, by process, after `calls_burst` that he has in hand; 0: no limit. Our own services' calls
    are not counted."""
    calls_burst: int = Field(default=2_000, ge=1)
    upload_bytes: int = Field(default=1 << 30, ge=0)
    """Uploads of one caller that a process takes at once, in all; a single one may be larger. 0: no limit."""

    oidc_issuer: str = ""
    """An external OpenID provider to sign in with; empty: none. With a client id, and a secret unless the client is
    public."""
    oidc_client_id: str = ""
    oidc_client_secret: SecretStr | None = None
    oidc_redirect_url: str = ""
    """The page that takes the provider's answer; empty: `public_url` with a slash."""

    data_dir: Path = Path("data")
    demo: bool = True
    log_level: str = "info"
    log_format: str = "json"
    access_token_seconds: int = Field(default=300, gt=0, le=3_600)
    session_idle_seconds: int = Field(default=1_800, gt=0)
    """A session that is not refreshed for so long has ended (45 CFR 164.312(a)(2)(iii))."""
    session_seconds: int = Field(default=43_200, gt=0)
    """A session ends after so long, however busy it is."""
    signing_key_days: int = Field(default=90, gt=0)
    """How long a key signs access tokens before the next one takes over."""

    @field_validator("trusted_proxies", "plain_hosts", mode="before")
    @classmethod
    def _separated(cls, value: Any) -> Any:
        return [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value

    @property
    def proxies(self) -> Proxies:
        return Proxies(self.behind_proxy, self.trusted_proxies)

    def required(self, name: str) -> str:
        """The value of a secret setting, or an error that names the variable to set."""
        value = getattr(self, name)
        if value is None:
            raise SystemExit(f"{name.upper()} must be set for this process")
        text = str(value.get_secret_value())
        if name.endswith("_database_url") and not is_verified(text, self.plain_hosts):
            raise SystemExit(f"{name.upper()} must say sslmode=verify-full, or PLAIN_HOSTS name its host")
        return text
