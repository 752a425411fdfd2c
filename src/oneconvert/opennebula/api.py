"""oned's API, as oneadmin of this front-end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from oneconvert.errors import OnedError

LOG = logging.getLogger(__name__)

TIMEOUT = 15.0  # seconds
DEFAULT_ENDPOINT = "http://localhost:2633/RPC2"


@contextmanager
def oned() -> Iterator[Any]:
    """pyone's OneServer. Every error within the context becomes an OnedError."""
    session = _session()
    if not session:
        raise OnedError("oned cannot be asked: there is no ~/.one/one_auth, as oneadmin has it; or set ONE_AUTH")
    # Only here: it takes a quarter of a second to load.
    import pyone

    try:
        with _no_proxy():
            yield pyone.OneServer(_endpoint(), session=session, timeout=TIMEOUT)
    except pyone.OneException as error:
        raise OnedError(f"oned refused: {error}") from error
    except OSError as error:
        raise OnedError(f"oned does not answer at {_endpoint()}: {type(error).__name__}") from error


def image_was_deleted(image_id: int) -> bool:
    """Whether oned says that there is no such image any more.

    A user may delete an image while it is LOCKED. oned drops it at once, lets its ``cp`` run on, and never removes
    what that stores then. Without an answer from oned the image is taken to be there.
    """
    if not _session():
        return False
    try:
        with oned() as server:
            server.image.info(image_id)
    except OnedError as error:
        if is_missing(error):
            return True
        LOG.warning("%s", error.sentence)
    return False


def is_missing(error: OnedError) -> bool:
    """Whether oned answered that it has no such object."""
    return type(error.__cause__).__name__ == "OneNoExistsException"


@contextmanager
def _no_proxy() -> Iterator[None]:
    """A proxy is for downloads: it must not get the password of oneadmin. pyone leaves it to the environment."""
    names = ("no_proxy", "NO_PROXY")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "*"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _session() -> str:
    """``user:password`` of this front-end's oneadmin, from where OpenNebula's own tools have it."""
    try:
        return Path(os.environ.get("ONE_AUTH") or Path.home() / ".one" / "one_auth").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _endpoint() -> str:
    """The address of oned's XML-RPC API, found as the Ruby binding does."""
    if os.environ.get("ONE_XMLRPC"):
        return os.environ["ONE_XMLRPC"]
    try:
        return (Path.home() / ".one" / "one_endpoint").read_text().strip() or DEFAULT_ENDPOINT
    except (OSError, UnicodeDecodeError):
        return DEFAULT_ENDPOINT
