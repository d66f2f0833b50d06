"""What is wrong with a server's certificate is said in the same words by every client, with what to do."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from faults import BODY, KEYS, Handler, place, serving

from tracekit import backend_for
from tracekit.errors import BackendError
from tracekit.store_options import CLIENTS

EVERY_CLIENT = [f"{scheme} {client}" for scheme in ("s3", "az", "http") for client in CLIENTS[scheme]]
DAY = timedelta(days=1)
SAID = {
    "expired": ("its certificate has expired", "clock"),
    "early": ("its certificate is not valid yet", "clock"),
    "other": ("its certificate is for another host", "check the host's name"),
    "other-address": ("its certificate is for another host", "check the host's name"),
    "stranger": ("its certificate is not trusted", "ca_bundle="),
    "self-signed": ("its certificate is not trusted", "ca_bundle="),
    "usage": ("its certificate is not valid: ", "look at the server's certificate"),
}
Key = ec.EllipticCurvePrivateKey


@pytest.fixture
def keys(clean_env: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in KEYS.items():
        clean_env.setenv(name, value)
    return clean_env


def signed(
    subject: str, by: tuple[str, Key] | None, *, since: int = -1, until: int = 1, host: str = "127.0.0.1",
    authority: bool = False, usage: x509.ObjectIdentifier = x509.ExtendedKeyUsageOID.SERVER_AUTH,
) -> tuple[bytes, Key]:  # fmt: skip
    """Return a certificate that is valid from `since` to `until` days from now, and its key; without `by` it signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    issuer, signer = by or (subject, key)
    alternative = x509.DNSName(host) if host[-1].isalpha() else x509.IPAddress(ipaddress.ip_address(host))
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder().subject_name(named).public_key(key.public_key())
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + since * DAY).not_valid_after(now + until * DAY)
        .add_extension(x509.SubjectAlternativeName([alternative]), False)
        .add_extension(x509.BasicConstraints(authority, None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    )  # fmt: skip
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), False)
    made = builder.sign(signer, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM), key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of each case with its key, and `ca.pem`, the authority that signed them."""
    path = tmp_path_factory.mktemp("certificates")
    ca, ca_key = signed("ca", None, authority=True)
    (path / "ca.pem").write_bytes(ca)
    by = ("ca", ca_key)
    made = {
        "right": signed("leaf", by),
        "expired": signed("leaf", by, since=-3, until=-2),
        "early": signed("leaf", by, since=2, until=3),
        "other": signed("leaf", by, host="store.example"),
        "other-address": signed("leaf", by, host="127.0.0.9"),
        "stranger": signed("leaf", ("nobody", ec.generate_private_key(ec.SECP256R1()))),
        "self-signed": signed("self", None, authority=True),
        "usage": signed("leaf", by, usage=x509.ExtendedKeyUsageOID.CLIENT_AUTH),
    }
    for name, (certificate, key) in made.items():
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (path / f"{name}.pem").write_bytes(certificate + pem)
    return path


@contextlib.contextmanager
def secured(pem: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with serving(Handler.ranged, context) as (endpoint, _):
        yield endpoint


def attempt(endpoint: str, client: str, ca_bundle: Path) -> bytes:
    scheme, _, library = client.partition(" ")
    uri, options = place(endpoint, scheme)
    backend = backend_for(uri, client=library, retries=2, timeout_s=5, ca_bundle=str(ca_bundle), **options)
    try:
        buffer = backend.allocate(50)
        return bytes(buffer[: backend.open(uri).read_into(100, buffer).nbytes])
    finally:
        backend.close()


@pytest.mark.parametrize("client", EVERY_CLIENT)
def test_what_is_wrong_with_a_certificate_is_named_with_what_to_do(
    keys: pytest.MonkeyPatch, folder: Path, client: str
) -> None:
    with secured(folder / "right.pem") as endpoint:
        assert attempt(endpoint, client, folder / "ca.pem") == BODY[100:150]
    for case, (words, hint) in SAID.items():
        with secured(folder / f"{case}.pem") as endpoint, pytest.raises(BackendError) as raised:
            attempt(endpoint, client, folder / "ca.pem")
        error = raised.value
        assert (error.error_class, error.tries) == ("unreachable", 1), case
        assert words in error.message and hint in error.hint, (case, str(error))
        assert ("ca_bundle=" in str(error)) == ("ca_bundle=" in hint), (case, str(error))
