"""Settings by environment, read once at start; the same names in compose, in the embedded run and in tests."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Config(BaseSettings):
    """Everything a process may be told. A process reads only what it needs; secrets never print."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    host: str = "127.0.0.1"
    port: int = 8080
    health_port: int = 0
    """Port of `/livez`, `/readyz` and `/metrics` for processes without an API; 0: none."""

    mllp_port: int = 2575
    """Port on which the ledger takes HL7 v2 messages (MLLP); 0: none."""
    mllp_tls_cert: Path | None = None
    """Certificate chain in PEM, without which MLLP is unencrypted; with its key in `mllp_tls_key`, unless both are in
    one file."""
    mllp_tls_key: Path | None = None

    identity_database_url: SecretStr | None = None
    ledger_database_url: SecretStr | None = None
    reporting_database_url: SecretStr | None = None
    amqp_url: SecretStr | None = None
    """None: the in-process loopback transport (embedded run only)."""

    identity_url: str = "http://127.0.0.1:8081"
    ledger_url: str = "http://127.0.0.1:8082"
    issuer: str = "billing-identity"
    """The `iss` of tokens, a name and not an address: it must not change with the proxy in front."""
    audience: str = "billing"

    operator_password: SecretStr | None = None
    """Password of the bootstrap user `operator`; generated and printed once when absent (embedded run)."""
    internal_client_secret: SecretStr | None = None
    """Secret shared by the services' own client (`client_id` "internal")."""

    data_dir: Path = Path("data")
    demo: bool = True
    log_level: str = "info"
    log_format: str = "json"
    access_token_seconds: int = 300

    def required(self, name: str) -> str:
        """The value of a secret setting, or an error that names the variable to set."""
        value = getattr(self, name)
        if value is None:
            raise SystemExit(f"{name.upper()} must be set for this process")
        return str(value.get_secret_value())
