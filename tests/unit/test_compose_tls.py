"""The second compose file: merged with the first, every address is one of TLS, every file that is named is there and
may be read, and each container has its own key and no other."""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from deploy import certificates
from shared.config import Config
from shared.tls import SUITES
from tests.support.compose import EXAMPLE, ROOT, SECRETS, TLS, merged, mounts

APIS = {"identity": 8081, "ledger-api": 8082, "reporting-api": 8083}
WORKERS = {"identity-relay", "ledger-relay", "ledger-feeds", "reporting-consumer"}
LISTEN = {"postgres:5432", "rabbitmq:5671", *(f"{name}:{port}" for name, port in APIS.items())}
MAKER = yaml.safe_load((ROOT / "deploy/compose.tls.yml").read_text())["services"]["certificates"]
HOSTS = [re.sub(r"=\$\{\w+:-(\w+)\}$", r"=\1", one) for one in MAKER["command"][3:]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = merged(tmp_path_factory.mktemp("plain"), dict.fromkeys(SECRETS, "x"))["services"]
    return found


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = merged(tmp_path_factory.mktemp("tls"), dict.fromkeys(SECRETS, "x"), TLS)["services"]
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command of the compose file makes."""
    folder = tmp_path_factory.mktemp("made") / "certificates"
    certificates.main([str(folder), *HOSTS])
    return folder


def test_nothing_else_is_changed(plain: dict[str, Any], services: dict[str, Any]) -> None:
    """Rights, limits, networks, order and probes are those of the first file."""
    assert set(services) == set(plain), "what makes the certificates runs when it is asked for"
    for name, service in services.items():
        changed = {key for key in service if service[key] != plain[name].get(key)}
        assert changed <= {"environment", "volumes", "group_add", *(["command"] if name == "postgres" else [])}, name
        assert plain[name].keys() <= service.keys()
        told, before = service.get("environment", {}), plain[name].get("environment", {})
        assert before.keys() <= told.keys()
        added = {"TLS_CERTIFICATE", "TLS_KEY", "SSL_CERT_FILE", "SSL_CERT_DIR", "MLLP_TLS_CERT", "MLLP_TLS_KEY"}
        assert told.keys() - before.keys() <= added
    command = plain["postgres"]["command"]
    assert services["postgres"]["command"][: len(command)] == command


def test_every_address_is_one_of_tls_and_of_a_listener(services: dict[str, Any]) -> None:
    seen = set()
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            for scheme, host, rest in re.findall(r"(\w+)://(?:[^@/]*@)?([^/]+)(\S*)", value):
                assert scheme in {"https", "amqps", "postgresql"}, (name, variable)
                if variable == "PROBE":
                    own = service["environment"]
                    assert host == f"localhost:{own.get('PORT') or own['HEALTH_PORT']}"
                elif variable == "PUBLIC_URL":
                    assert host == "localhost:8080"
                else:
                    assert host in LISTEN, (name, variable)
                    seen.add(host)
                if scheme == "postgresql":
                    assert rest.endswith("?sslmode=verify-full&sslrootcert=/tls/ca.pem")
                if scheme == "amqps":
                    assert rest.endswith("?cafile=/tls/ca.pem")
        for variable, value in service.get("environment", {}).items():
            if variable.endswith("_DATABASE_URL"):
                spoken = Config(**{key.lower(): text for key, text in service["environment"].items()})
                assert spoken.plain_hosts == ()
                assert spoken.required(variable.lower()) == value, "the process starts with it"
    assert seen == LISTEN - {"reporting-api:8083"}, "which only the proxy calls"


def test_who_listens_listens_with_tls(services: dict[str, Any]) -> None:
    for name in (*APIS, *WORKERS):
        told = services[name]["environment"]
        assert (told["TLS_CERTIFICATE"], told["TLS_KEY"]) == ("/tls/certificate.pem", "/tls/key.pem"), name
        assert ("MLLP_TLS_CERT" in told, "MLLP_TLS_KEY" in told) == ("MLLP_PORT" in told,) * 2
    settings = dict(one[2:].split("=", 1) for one in services["postgres"]["command"][1:])
    assert (settings["ssl"], settings["ssl_ciphers"], settings["ssl_min_protocol_version"]) == ("on", SUITES, "TLSv1.2")
    rules = [line.split() for line in mounted(services, "postgres", settings["hba_file"]) if line[0] != "#"]
    assert [rule[0] for rule in rules] == ["local", "hostssl"]
    assert rules[1][1:] == ["all", "all", "all", "scram-sha-256"]
    rabbit = mounted(services, "rabbitmq", "/etc/rabbitmq/conf.d/91-tls.conf")
    assert {line for line in rabbit if line.startswith("listeners")} == {
        "listeners.tcp = none",
        "listeners.ssl.default = 5671",
    }
    proxy = mounted(services, "proxy", "/etc/nginx/listen.conf")
    assert [line for line in proxy if line.startswith("listen")] == ["listen 8080 ssl;"]
    assert {"proxy_ssl_verify on;", "set $inside https;", f"ssl_ciphers {SUITES};"} <= set(proxy)
    assert f"proxy_ssl_ciphers {SUITES};" in proxy


def mounted(services: dict[str, Any], name: str, target: str) -> list[str]:
    """The lines of a file that a service sees at a path."""
    lines = (ROOT / mounts(services[name])[target]).read_text().splitlines()
    return [line for line in lines if line]


def test_whom_a_process_trusts(services: dict[str, Any]) -> None:
    """OpenSSL's directory counts beside its file, unless it is told another. Identity may have a provider outside."""
    for name in (*APIS, *WORKERS):
        told = services[name]["environment"]
        assert told["SSL_CERT_FILE"] == "/tls/ca.pem"
        assert told.get("SSL_CERT_DIR") == (None if name.startswith("identity") else "/nonexistent"), name


def test_every_file_that_is_named_is_there_and_readable_by_the_group(services: dict[str, Any], made: Path) -> None:
    for name, service in services.items():
        seen = mounts(service)
        texts = [*map(str, service.get("environment", {}).values()), *map(str, service.get("command", []))]
        for source in seen.values():
            if source.startswith("./deploy/"):
                assert (ROOT / source).is_file(), source
                texts += (ROOT / source).read_text().splitlines()
        named = {path for text in texts for path in re.findall(r"/(?:tls|etc/billing)/\w+\.pem", text)}
        assert named, name
        for path in named:
            source = seen.get(path) or f"{seen['/tls']}/{Path(path).name}"
            file = made / Path(source).relative_to("certificates")
            assert file.is_file(), (name, path)
            for one, mode in ((file, 0o640), (file.parent, 0o750)):
                assert stat.S_IMODE(one.stat().st_mode) == mode, one
        assert service["group_add"] == [str(certificates.GROUP)], name


def test_no_container_sees_a_key_that_is_not_its_own(services: dict[str, Any], made: Path) -> None:
    keys: dict[Path, set[str]] = {file: set() for file in made.rglob("*") if file.is_file() and is_secret(file)}
    for name, service in services.items():
        for source in mounts(service).values():
            place = made / source.removeprefix("./certificates/")
            for file in keys:
                if source.startswith("./certificates/") and (file == place or place in file.parents):
                    keys[file].add(name)
    owners = {str(file.relative_to(made)): names for file, names in keys.items()}
    assert owners.pop("authority.pem") == set()
    assert owners == {f"{host}/key.pem": {host} for host in (one.partition("=")[0] for one in HOSTS)}


def is_secret(file: Path) -> bool:
    return b"PRIVATE KEY" in file.read_bytes()


def test_the_example_names_what_may_be_set() -> None:
    optional = set(re.findall(r"\$\{([A-Z_]+):-", (ROOT / "deploy/compose.tls.yml").read_text()))
    assert optional == {"VERSION", "PUBLIC_URL", "PROXY_NAMES", "PROXY_CERTIFICATE", "PROXY_KEY"}
    for name in optional - {"VERSION"}:
        assert re.search(rf"^#{name}=\S", EXAMPLE, re.MULTILINE), name


def test_what_makes_them_has_few_rights() -> None:
    assert (MAKER["cap_drop"], MAKER["cap_add"], MAKER["network_mode"]) == (["ALL"], ["CHOWN"], "none")
    assert MAKER["read_only"] is True
    assert MAKER["profiles"] == ["certificates"]
    assert mounts({"volumes": MAKER["volumes"][:1]}) == {MAKER["command"][1]: "./deploy/certificates.py"}
    assert MAKER["volumes"][1] == f"./certificates:{MAKER['command'][2]}"


def leaf(folder: Path, host: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / host / "certificate.pem").read_bytes())


def verify(folder: Path, host: str, name: str) -> Sequence[x509.Certificate]:
    """By RFC 5280 and the name, as a client does."""
    trusted = Store([x509.load_pem_x509_certificate((folder / "ca/ca.pem").read_bytes())])
    return PolicyBuilder().store(trusted).build_server_verifier(x509.DNSName(name)).verify(leaf(folder, host), [])


@pytest.mark.parametrize("host", sorted({one.partition(":")[0] for one in LISTEN} | WORKERS | {"proxy"}))
def test_a_certificate_is_good_for_its_host_and_no_other(made: Path, host: str) -> None:
    for name in (host, "localhost"):
        assert len(verify(made, host, name)) == 2
    for other in {one.partition("=")[0] for one in HOSTS} - {host}:
        with pytest.raises(VerificationError):
            verify(made, host, other)
    left = leaf(made, host).not_valid_after_utc - datetime.now(UTC)
    assert timedelta(364) < left <= timedelta(365)


def test_again_the_authority_stays_and_the_rest_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> tuple[bytes, bytes]:
        certificates.make(tmp_path / "x", {"one": ["one.example"]})
        verify(tmp_path / "x", "one", "one.example")
        return (tmp_path / "x/authority.pem").read_bytes(), (tmp_path / "x/one/certificate.pem").read_bytes()

    first, second = make(), make()
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert stat.S_IMODE((tmp_path / "x/authority.pem").stat().st_mode) == 0o600
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "AUTHORITY_DAYS", certificates.HOST_DAYS - 1)
        (tmp_path / "x/authority.pem").unlink()
        short = make()
    assert make()[0] != short[0], "one that ends before what it would issue"
    assert sorted(file.name for file in (tmp_path / "x").rglob("*.new")) == []


@pytest.mark.parametrize("arguments", [[], ["x"], ["x", ""], ["x", "../up"], ["x", "a/b"], ["x", "one="]])
def test_what_it_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="usage"):
        certificates.main(arguments)
    assert list(tmp_path.iterdir()) == []
