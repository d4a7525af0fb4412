"""The container set-up, read by a real compose parser: what runs, in which order, with which rights and secrets."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shared.config import Config
from tests.support.compose import BIN, EXAMPLE, ROOT, SECRETS, merged, parse

APIS = {"identity": "8081", "ledger-api": "8082", "reporting-api": "8083"}
WORKERS = {"identity-relay", "ledger-relay", "ledger-feeds", "reporting-consumer"}
MIGRATIONS = {"identity-migrate", "ledger-migrate", "reporting-migrate"}
SERVERS = {"postgres", "rabbitmq", "proxy"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return merged(tmp_path_factory.mktemp("compose"), {name: f"value-of-{name}" for name in SECRETS})


@pytest.fixture(scope="module")
def services(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["services"]
    return found


@pytest.mark.parametrize("missing", SECRETS)
def test_no_secret_has_a_default(missing: str, tmp_path: Path) -> None:
    others = {name: "x" for name in SECRETS if name != missing}
    for secrets in (others, {**others, missing: ""}):
        done = parse(tmp_path, secrets)
        assert done.returncode != 0
        assert missing in done.stderr


def test_the_example_names_every_secret_and_holds_none() -> None:
    required = set(re.findall(r"\$\{([A-Z_]+):\?", (ROOT / "docker-compose.yml").read_text()))
    assert required == set(SECRETS)
    optional = set(re.findall(r"\$\{([A-Z_]+):-", (ROOT / "docker-compose.yml").read_text()))
    oidc = {"OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET"}
    assert optional == {
        "VERSION",
        "LOG_LEVEL",
        "PROXY_BIND",
        "PROXY_PORT",
        "PUBLIC_URL",
        "TRUSTED_PROXIES",
        "OPERATOR_MFA_REQUIRED",
        *oidc,
    }
    assert not re.search(r"^[A-Z_]+=\S", EXAMPLE, re.MULTILINE)


def test_every_process_is_there_and_nothing_else(services: dict[str, Any]) -> None:
    assert set(services) == {*APIS, *WORKERS, *MIGRATIONS, *SERVERS}
    for name in (*APIS, *WORKERS, *MIGRATIONS):
        module, process = services[name]["command"][2:]
        assert services[name]["command"][:2] == ["python", "-m"]
        assert module == f"services.{name.partition('-')[0]}"
        assert process == (name.partition("-")[2] or "api")


def test_every_container_has_few_rights_and_limits(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert str(service["user"]).partition(":")[0] not in {"", "0", "root"}, name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert service["pids_limit"] > 0, name
        assert service["logging"]["options"]["max-size"], name
        assert "privileged" not in service
        assert not {"network_mode", "pid", "ipc", "devices", "cap_add"} & set(service), name
        assert not any("docker.sock" in str(volume) for volume in service.get("volumes", [])), name


def test_everything_is_restarted_and_watched(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name in MIGRATIONS:
            assert service["restart"] == "on-failure:5"
            continue
        assert service["restart"] == "unless-stopped", name
        check = service["healthcheck"]
        assert {"test", "interval", "timeout", "retries", "start_period"} <= set(check), name
    for name in (*APIS, *WORKERS):
        environment = services[name]["environment"]
        port = environment["PORT"] if name in APIS else environment["HEALTH_PORT"]
        assert environment["PROBE"] == f"http://127.0.0.1:{port}", name
        assert "/readyz" in services[name]["healthcheck"]["test"][-1]
        compile(services[name]["healthcheck"]["test"][-1], name, "exec")
    assert {name: services[name]["environment"]["PORT"] for name in APIS} == APIS


def test_the_order_of_start(services: dict[str, Any]) -> None:
    def needs(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in services[name].get("depends_on", {}).items()}

    for name in MIGRATIONS:
        assert needs(name) == {"postgres": "service_healthy"}
    for name in (*APIS, *WORKERS):
        assert needs(name)[f"{name.partition('-')[0]}-migrate"] == "service_completed_successfully"
    for name in WORKERS:
        assert needs(name)["rabbitmq"] == "service_healthy"
    assert needs("proxy") == dict.fromkeys(APIS, "service_healthy")


def test_a_service_knows_its_own_database_only(services: dict[str, Any]) -> None:
    for name in (*APIS, *WORKERS, *MIGRATIONS):
        own = name.partition("-")[0]
        user, key, password = (
            (own, f"{own.upper()}_OWNER_DATABASE_URL", f"{own.upper()}_OWNER_PASSWORD")
            if name in MIGRATIONS
            else (f"{own}_login", f"{own.upper()}_DATABASE_URL", f"{own.upper()}_DB_PASSWORD")
        )
        urls = {key: value for key, value in services[name]["environment"].items() if key.endswith("_DATABASE_URL")}
        assert urls == {key: f"postgresql://{user}:value-of-{password}@postgres:5432/{own}"}
        spoken = Config(**{name.lower(): value for name, value in services[name]["environment"].items()})
        assert spoken.required(key.lower()) == urls[key], "the process starts with it"


@pytest.mark.parametrize(
    ("secret", "holders"),
    [
        ("OPERATOR_PASSWORD", {"identity"}),
        ("IDENTITY_SECRETS_KEY", {"identity", "identity-relay"}),
        ("INTERNAL_CLIENT_SECRET", {*APIS, *WORKERS}),
        ("POSTGRES_PASSWORD", {"postgres"}),
        *(
            (f"{one.upper()}_OWNER_PASSWORD", {"postgres", f"{one}-migrate"})
            for one in ("identity", "ledger", "reporting")
        ),
    ],
)
def test_who_is_told_a_secret(services: dict[str, Any], secret: str, holders: set[str]) -> None:
    told = {name for name, service in services.items() if f"value-of-{secret}" in str(service.get("environment", {}))}
    assert told == holders


def test_only_the_proxy_is_open_to_the_world(config: dict[str, Any], services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if "ports" in service} == {"proxy"}
    assert "127.0.0.1" in str(services["proxy"]["ports"]), "unless somebody says otherwise"
    inside = {name for name, network in config["networks"].items() if network.get("internal")}
    for name, service in services.items():
        assert name == "proxy" or set(service["networks"]) <= inside, name
    assert "inside" not in services["proxy"]["networks"], "the proxy cannot reach databases and broker"


def test_uploads_are_spooled_to_a_disk(config: dict[str, Any], services: dict[str, Any]) -> None:
    """Elsewhere the container has no disk, and a file counts against its memory."""
    for name in ("ledger-api", "ledger-feeds"):
        folder = services[name]["environment"]["TMPDIR"]
        assert any(str(volume).startswith(f"spool:{folder}") for volume in services[name]["volumes"]), name
        assert folder not in services[name]["tmpfs"]
    assert "spool" in config["volumes"]


def test_the_apis_know_which_proxies_to_believe(services: dict[str, Any]) -> None:
    told = {name for name, service in services.items() if "TRUSTED_PROXIES" in service.get("environment", {})}
    assert told == {name for name, service in services.items() if "BEHIND_PROXY" in service.get("environment", {})}
    assert told == set(APIS)
    assert "X-Forwarded-For $proxy_add_x_forwarded_for;" in (ROOT / "deploy/proxy/nginx.conf").read_text()


def test_the_proxy_serves_each_api_under_its_prefix() -> None:
    text = (ROOT / "deploy/proxy/nginx.conf").read_text()
    upstreams = dict(re.findall(r"map \$host \$(\w+) \{ default (\S+); \}", text))
    assert upstreams == {name.partition("-")[0]: f"{name}:{port}" for name, port in APIS.items()}
    for prefix in upstreams:
        assert re.search(rf"location /{prefix}/ \{{[^}}]*proxy_pass \$inside://\${prefix}\$rest;", text)
    assert re.search(r"location ~ \^/\(identity\|ledger\|reporting\)/metrics \{\s*return 404;", text)


def test_the_dockerfile_is_sound_and_the_image_takes_no_development_file() -> None:
    lint = subprocess.run([BIN / "hadolint", ROOT / "deploy/Dockerfile"], capture_output=True, text=True, check=False)
    assert lint.returncode == 0, lint.stdout
    assert re.search(r"^USER 10001", (ROOT / "deploy/Dockerfile").read_text(), re.MULTILINE)
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert rules[0] == "*"
    assert {rule for rule in rules if rule[0] == "!"} == {"!LICENSE", "!requirements.lock", "!services", "!shared"}


@pytest.mark.parametrize(
    "script", ["deploy/setup.sh", "deploy/postgres/init.sh", "deploy/rabbitmq/start.sh", ".ci/run"]
)
def test_scripts_parse(script: str) -> None:
    shell = (ROOT / script).read_text().splitlines()[0].rpartition("/")[2].removeprefix("env ")
    subprocess.run([shell, "-n", ROOT / script], check=True)
