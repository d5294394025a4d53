"""SASL_SSL for the embedded broker: a CA and a certificate of our own, SCRAM logins, and ACLs.

Both listeners, the clients' and the controller's, want TLS and a SCRAM-SHA-512 login; who isn't the admin may do
nothing until an ACL says so.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from music_pulse.embedded.plumbing import HOST
from music_pulse.files import write_whole

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

MECHANISM = "SCRAM-SHA-512"
ADMIN = "admin"

_DAYS = 3650  # nobody renews a certificate that only this machine sees


class Login(NamedTuple):
    """What a client needs to get in: a user, its password, and the CA (PEM) that the broker's certificate is from."""

    username: str
    password: str
    cafile: Path

    def __repr__(self) -> str:
        return f"Login({self.username})"


class BrokerSecurity:
    """The certificates and the admin's password under a folder, made once; private to their owner."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cafile = folder / "ca.pem"
        self._keystore = folder / "server.pem"
        self._password_path = folder / "admin-password"

    @property
    def is_set_up(self) -> bool:
        """Whether there is everything that the broker needs."""
        return self._password_path.exists()

    def set_up(self) -> None:
        """Make what is missing; the password comes last, so that what a killed command left is made anew."""
        if self.is_set_up:
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        certificate, keystore = _certificates()
        write_whole(self.cafile, certificate, 0o600)
        write_whole(self._keystore, keystore, 0o600)
        write_whole(self._password_path, secrets.token_urlsafe(24), 0o600)

    def admin(self) -> Login:
        """Return the login that may do everything, also give logins and rights to others."""
        return Login(ADMIN, self._password_path.read_text(encoding="ascii"), self.cafile)

    def server_properties(self, running_in: Path) -> Mapping[str, str]:
        """Return the broker's settings; paths relative to the folder that it runs in."""
        keystore, cafile = (os.path.relpath(path, running_in) for path in (self._keystore, self.cafile))
        module = "org.apache.kafka.common.security.scram.ScramLoginModule"
        jaas = f'{module} required username="{ADMIN}" password="{self.admin().password}";'
        return {
            "listener.security.protocol.map": "BROKER:SASL_SSL,CONTROLLER:SASL_SSL",
            "sasl.enabled.mechanisms": MECHANISM,
            "sasl.mechanism.inter.broker.protocol": MECHANISM,
            "sasl.mechanism.controller.protocol": MECHANISM,
            f"listener.name.broker.{MECHANISM.lower()}.sasl.jaas.config": jaas,
            f"listener.name.controller.{MECHANISM.lower()}.sasl.jaas.config": jaas,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": keystore,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": cafile,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": f"User:{ADMIN}",
        }

    def format_options(self) -> list[str]:
        """Return the options of `StorageTool format` by which the admin can log in at the first start."""
        return ["--add-scram", f"{MECHANISM}=[name={ADMIN},password={self.admin().password}]"]


def _certificates() -> tuple[str, str]:
    """Return a CA's certificate, and the broker's key and certificates, in PEM; the CA's key is thrown away."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _name("Music Pulse embedded Kafka CA")
    ca = _certificate(authority, authority, ca_key, ca_key, [(x509.BasicConstraints(ca=True, path_length=0), True)])
    places = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST)), x509.DNSName("localhost")])
    server = _certificate(
        _name("Music Pulse embedded Kafka"),
        authority,
        server_key,
        ca_key,
        [(x509.BasicConstraints(ca=False, path_length=None), True), (places, False)],
    )
    key = server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    ca_pem, server_pem = (one.public_bytes(Encoding.PEM).decode() for one in (ca, server))
    return ca_pem, key.decode() + server_pem + ca_pem


def _name(common: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    issuer_key: EllipticCurvePrivateKey,
    extensions: list[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(issuer_key, hashes.SHA256())
