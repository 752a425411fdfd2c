"""Certificates for 127.0.0.1: a self-signed one, or one that an authority has signed."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Union

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

Key = Union[ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey]


def make_certificate(path: Path) -> Path:
    """Write the certificate and its key to ``path`` as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("127.0.0.1")
    certificate = _builder(name, key, ca=True).issuer_name(name).add_extension(_address("127.0.0.1"), critical=False)
    return _write(path, certificate.sign(key, hashes.SHA256()), key)


@dataclass(frozen=True)
class Authority:
    """A certificate authority of 2048 bits; ``file`` is its certificate alone, as clients have it."""

    file: Path
    certificate: x509.Certificate
    key: rsa.RSAPrivateKey

    @classmethod
    def make(cls, path: Path, name: str = "authority of the tests") -> Authority:
        key = _rsa_key()
        certificate = _builder(_name(name), key, ca=True).issuer_name(_name(name)).sign(key, hashes.SHA256())
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(path, certificate, key)

    def issue(self, path: Path, address: str = "127.0.0.1") -> Path:
        """Write a certificate for ``address`` and its key to ``path`` as PEM."""
        key = _rsa_key()
        builder = _builder(_name(address), key, ca=False).issuer_name(self.certificate.subject)
        return _write(
            path, builder.add_extension(_address(address), critical=False).sign(self.key, hashes.SHA256()), key
        )


def thumbprint(path: Path, algorithm: str) -> str:
    """The digest of the certificate in a PEM file, as vSphere's tools show it."""
    pem = path.read_text().split("-----BEGIN PRIVATE")[0]
    digest = hashlib.new(algorithm, ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def _rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _address(address: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])


def _builder(name: x509.Name, key: Key, ca: bool) -> x509.CertificateBuilder:
    begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )


def _write(path: Path, certificate: x509.Certificate, key: Key) -> Path:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return path
