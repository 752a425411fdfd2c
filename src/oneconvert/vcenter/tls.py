"""Whom to trust: the certificate that was named, or those whom an authority has signed. There is no third way."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from pathlib import Path

from oneconvert.errors import VCenterError

DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
ALGORITHMS = {40: "sha1", 64: "sha256"}

# Not in the ssl module of Python 3.9. From OpenSSL's x509_vfy.h: whoever is trusted need not be a root.
PARTIAL_CHAIN = 0x80000


def trusted_context(
    host: str, port: int, ca_file: Path | None, thumbprints: tuple[str, ...], timeout: float
) -> ssl.SSLContext:
    """What to make connections to this server with.

    To find out whether it shows a certificate of these thumbprints it is asked for it, at most ``timeout`` seconds for
    each step, and nothing is told to it. The context then accepts that certificate alone, whatever name is in it.

    Raises VCenterError when the certificate is another one, or a setting cannot be used; OSError when there is no
    connection.
    """
    wanted = {_digits(each) for each in thumbprints}
    if wanted:
        certificate = presented_certificate(host, port, timeout)
        if wanted & {hashlib.new(name, certificate).hexdigest() for name in ALGORITHMS.values()}:
            return _context_for(certificate)
        if not ca_file:
            raise VCenterError(untrusted(host, port, "it is not the one of vcenter_thumbprint", certificate))
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except OSError as error:
        raise VCenterError(f"vcenter_ca_file {ca_file} cannot be used: {error.strerror or 'not PEM'}") from None
    # Python 3.13 began to ask for more than the certificates that vCenters make for themselves have.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if ca_file:
        context.verify_flags |= PARTIAL_CHAIN
    return context


def presented_certificate(host: str, port: int, timeout: float) -> bytes:
    """The certificate that a server shows, as DER, believed or not. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Nothing is sent over this connection, and nothing else is read from it.
    context.verify_mode = ssl.CERT_NONE
    plain = socket.create_connection((host, port), timeout)
    with plain, context.wrap_socket(plain, server_hostname=host) as secure:
        return secure.getpeercert(binary_form=True) or b""


def untrusted(host: str, port: int, why: str, certificate: bytes) -> str:
    """The sentence for a certificate that is not trusted, with what to set, and to compare if it is known."""
    digits = hashlib.sha256(certificate).hexdigest().upper()
    shown = ":".join(digits[i : i + 2] for i in range(0, len(digits), 2))
    advice = f" (its SHA-256 thumbprint is {shown}: compare it with the server's own)" if certificate else ""
    return (
        f"the certificate of {host}:{port} is not trusted: {why}; set vcenter_ca_file or vcenter_thumbprint in "
        f"oneconvert.conf{advice}"
    )


def _digits(thumbprint: str) -> str:
    digits = thumbprint.replace(":", "").strip().lower()
    if not DIGEST.fullmatch(digits):
        raise VCenterError("vcenter_thumbprint must be the SHA-1 or SHA-256 digest of a certificate, 40 or 64 digits")
    return digits


def _context_for(certificate: bytes) -> ssl.SSLContext:
    """A context that accepts this one certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    context.verify_flags |= PARTIAL_CHAIN
    return context
