"""Objects of Amazon S3 and of servers that speak its protocol: ``s3://bucket/key``, with the marketplace's keys.

The attributes are those of OpenNebula's S3 marketplace (its documentation, "S3 Marketplace", and ``downloader.sh``).
The object is asked for by a presigned URL (Amazon S3 User Guide, "Authenticating Requests: Using Query Parameters"), so
that the transfer is that of any other URL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import quote, urlsplit

from oneconvert.errors import HttpStatusError, NotAllowedError, SettingsError, TransferError
from oneconvert.transfer.http import Download, open_url
from oneconvert.transfer.options import HttpOptions, S3Credentials

DEFAULT_REGION = "us-east-1"
# Seconds that the URL is good for: the slowest download, and another connection near its end.
VALIDITY = 24 * 3600

# 's3', the old one in the words of Amazon's SDK, is what the documentation tells to set for every other server. Native
# drivers up to 6.10 obeyed, that of 7.4 signs with version 4 whatever is set; so do we: Ceph has known it since 2016.
SIGNATURE_VERSIONS = frozenset({"", "v4", "s3v4", "s3"})

# Names that can be a part of a host's name below the certificate of Amazon: no dots, no capitals.
HOST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")

# What an answer that is not the object means.
REASONS = {
    301: "the bucket is somewhere else; check REGION and ENDPOINT of the marketplace",
    307: "the bucket is somewhere else; check REGION and ENDPOINT of the marketplace",
    400: "the server does not understand the request; check REGION and ENDPOINT of the marketplace",
    403: "the server refuses the marketplace's keys; check ACCESS_KEY_ID, SECRET_ACCESS_KEY and REGION of the "
    "marketplace, what the key may read, and the clock of this host",
    404: "there is no such object, or no such bucket",
}


@contextmanager
def open_object(location: str, credentials: S3Credentials, http: HttpOptions) -> Iterator[Download]:
    """Ask for the object at ``location``.

    Raises SettingsError for attributes of the marketplace that cannot be used, NotAllowedError for what is no name of
    an object, TransferError when there is no answer, or not the object. None of them holds a key.
    """
    url = presigned_url(location, credentials)
    name = f"s3://{location.partition('://')[2]}"
    with ExitStack() as stack:
        try:
            body = stack.enter_context(open_url(url, http))
        except HttpStatusError as error:
            raise _explained(error, name) from None
        body.name = name
        yield body


def presigned_url(location: str, credentials: S3Credentials) -> str:
    """The URL of the object at ``location``, with the right to read it for a day. Raises as ``open_object`` does."""
    # 50 ms that only S3 has to pay for.
    try:
        from botocore.auth import S3SigV4QueryAuth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials
    except ImportError:
        raise TransferError("s3:// images need Python 3.10 or newer on the front-end: run install.sh with it") from None

    bucket, key = _parse(location)
    keys = Credentials(credentials.access_key_id, credentials.secret_access_key)
    request = AWSRequest(method="GET", url=_address(bucket, key, credentials))
    S3SigV4QueryAuth(keys, "s3", _region(credentials), expires=VALIDITY).add_auth(request)
    return str(request.url)


def _explained(error: HttpStatusError, name: str) -> TransferError:
    """The error in terms of S3, where the answer has a meaning there; else as it is."""
    reason = REASONS.get(error.status)
    return TransferError(f"{name}: {reason}") if reason else error


def _parse(location: str) -> tuple[str, str]:
    """Bucket and key. Both are taken literally: nothing in them is an escape, a query or a fragment."""
    bucket, _, key = location.partition("://")[2].partition("/")
    if not bucket or not key:
        raise NotAllowedError("the s3:// location of the image is not understood; write s3://bucket/key")
    if CONTROL_CHARACTER.search(location):
        raise NotAllowedError("the s3:// location of the image has control characters in it")
    # Clients and proxies on the way would resolve them, and ask for another object.
    if {".", ".."} & {bucket, *key.split("/")}:
        raise NotAllowedError("the s3:// location of the image has '.' or '..' in it, which no URL can carry")
    return bucket, key


def _address(bucket: str, key: str, credentials: S3Credentials) -> str:
    """The URL of the object, unsigned."""
    if credentials.signature_version.lower() not in SIGNATURE_VERSIONS:
        raise SettingsError(
            f"SIGNATURE_VERSION={credentials.signature_version} of the marketplace cannot be used; only v4 can"
        )
    path = f"/{quote(bucket, safe='')}/{quote(key, safe='/')}"
    if _is_amazon(credentials):
        region = _region(credentials)
        host = f"s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
        by_path = credentials.force_path_style.lower() == "yes" or key.startswith("/")
        if by_path or not HOST_LABEL.fullmatch(bucket):
            return f"https://{host}{path}"
        return f"https://{bucket}.{host}/{quote(key, safe='/')}"
    return _endpoint(credentials) + path


def _is_amazon(credentials: S3Credentials) -> bool:
    return credentials.aws.lower() != "no" if credentials.aws else not credentials.endpoint


def _region(credentials: S3Credentials) -> str:
    region = credentials.region or DEFAULT_REGION
    if not REGION.fullmatch(region):
        raise SettingsError("REGION of the marketplace is not the name of a region, as us-east-1 is")
    return region


def _endpoint(credentials: S3Credentials) -> str:
    try:
        parts = urlsplit(credentials.endpoint)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        usable = False
    if not usable or parts.username is not None or parts.query or parts.fragment:
        raise SettingsError("ENDPOINT of the marketplace is not a URL such as https://s3.example.org")
    return credentials.endpoint.rstrip("/")
