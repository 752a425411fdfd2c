"""oned's API, as oneadmin of this front-end."""

from __future__ import annotations

import logging
import os
import xmlrpc.client
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
        server = pyone.OneServer(_endpoint(), session=session)
        if isinstance(server, xmlrpc.client.ServerProxy):
            # There is no other way to exchange it.
            server._ServerProxy__transport = _Transport(_endpoint())  # type: ignore[attr-defined]
        yield server
    except pyone.OneException as error:
        raise OnedError(f"oned refused: {error}") from error
    except OnedError:
        raise
    except Exception as error:  # whatever the binding and what is below it raise
        raise OnedError(f"oned does not answer at {_endpoint()}: {type(error).__name__}") from error


class _Transport(xmlrpc.client.Transport):
    """Asks oned directly, for at most TIMEOUT: pyone's own has no limit, and would show the password to a proxy."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self._endpoint = endpoint

    def request(self, host: Any, handler: str, request_body: Any, verbose: bool = False) -> Any:
        """One call; raises requests.RequestException."""
        import requests

        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(
                self._endpoint, data=request_body, headers={"Content-Type": "text/xml"}, timeout=TIMEOUT
            )
        answer.raise_for_status()
        parser, result = self.getparser()
        parser.feed(answer.content)
        parser.close()
        return result.close()


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
