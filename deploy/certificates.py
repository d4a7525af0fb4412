"""Certificates for the hosts of compose.tls.yml: an authority of its own, and a certificate and key for each host.

    python certificates.py FOLDER HOST[=NAME,...] ...

    FOLDER/authority.pem   the authority's certificate and key; for whoever runs this, and mounted nowhere
    FOLDER/ca/ca.pem       the authority's certificate, for those who trust it and listen to nobody
    FOLDER/HOST/           ca.pem; certificate.pem, good for HOST, for `localhost` (a probe in the container) and for
                           what follows `=`; key.pem

Run again, it keeps the authority and makes all else anew. Run as root, as compose does it, the files belong to root
and are readable by the group 10001, which the containers have: PostgreSQL takes a key of root's or its own user's
only. It needs nothing of the project, because the image holds no file of this folder.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

GROUP: Final = 10001
AUTHORITY_DAYS: Final = 3650
HOST_DAYS: Final = 365
_NONE: Final = dict.fromkeys(
    (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    ),
    False,
)


def main(arguments: Sequence[str]) -> None:
    if len(arguments) < 2 or not all(re.fullmatch(r"[a-z0-9-]+(=\S+)?", one) for one in arguments[1:]):
        raise SystemExit("usage: certificates.py FOLDER HOST[=NAME,...] ...")
    folder = Path(arguments[0])
    try:
        make(folder, {host: names.split(",") if names else [] for host, _, names in map(_parted, arguments[1:])})
    except OSError as error:
        raise SystemExit(f"{error.filename} cannot be written: {error.strerror}") from None
    print(f"{len(arguments) - 1} certificates, good until {datetime.now(UTC).date() + timedelta(HOST_DAYS)}")


def _parted(argument: str) -> tuple[str, str, str]:
    return argument.partition("=")


def make(folder: Path, hosts: dict[str, list[str]]) -> None:
    """Write what is said above, for each host with its further names: DNS names or IP addresses."""
    _folder(folder)
    certificate, key = _authority(folder / "authority.pem")
    trusted = certificate.public_bytes(serialization.Encoding.PEM)
    _folder(folder / "ca")
    _write(folder / "ca" / "ca.pem", trusted)
    for host, names in hosts.items():
        own = ec.generate_private_key(ec.SECP256R1())
        made = _host(host, (host, "localhost", *names), own, certificate, key)
        _folder(folder / host)
        _write(folder / host / "ca.pem", trusted)
        _write(folder / host / "key.pem", _pem(own))
        _write(folder / host / "certificate.pem", made.public_bytes(serialization.Encoding.PEM))


def _authority(file: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The one that is there, if it outlives what it would issue; else a new one. One file, so that a certificate never
    stands beside another one's key."""
    if file.exists():
        text = file.read_bytes()
        key, certificate = serialization.load_pem_private_key(text, None), x509.load_pem_x509_certificate(text)
        outlives = certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(HOST_DAYS)
        if isinstance(key, ec.EllipticCurvePrivateKey) and outlives:
            return certificate, key
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name("practice-billing")
    certificate = (
        _builder(subject, subject, key, key, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**{**_NONE, "key_cert_sign": True, "crl_sign": True}), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(file, certificate.public_bytes(serialization.Encoding.PEM) + _pem(key), mode=0o600)
    return certificate, key


def _host(
    host: str,
    names: Sequence[str],
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    return (
        _builder(_name(host), authority.subject, key, signer, HOST_DAYS)
        .add_extension(x509.SubjectAlternativeName(list(map(_general, dict.fromkeys(names)))), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{**_NONE, "digital_signature": True}), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + timedelta(days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(signed_by, critical=False)
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def _folder(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    _give_to_group(folder, 0o750)


def _write(file: Path, content: bytes, mode: int = 0o640) -> None:
    """Whole or not at all; never readable by more than it is in the end."""
    unfinished = file.with_name(f"{file.name}.new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as output:
        output.write(content)
    _give_to_group(unfinished, mode)
    unfinished.replace(file)


def _give_to_group(path: Path, mode: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, 0, GROUP)
    path.chmod(mode)


if __name__ == "__main__":
    main(sys.argv[1:])
