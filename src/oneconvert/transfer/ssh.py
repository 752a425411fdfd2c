"""Images that are files of other hosts, read by ssh: ``ssh://[user@]host:path``.

OpenNebula's ``downloader.sh`` takes everything up to the first colon as the host and the rest as the path, which is
relative to the user's home without a leading slash; ``datastore/fs/export`` writes such locations. A port, which that
leaves no place for, may follow the host as in ``ssh://host:2222:/path``. Who we are there, and which hosts are known,
is for ssh's own configuration to say (ssh_config(5)).
"""

from __future__ import annotations

import math
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from oneconvert.errors import NotAllowedError, TransferError
from oneconvert.jobs.process import UNLIMITED, Completed, Output, stream
from oneconvert.transfer.addresses import AddressRules
from oneconvert.transfer.options import NetworkOptions
from oneconvert.transfer.pace import Pace

# Neither user nor host can be an option, or anything else to ssh than what they are.
LOCATION = re.compile(
    r"(?P<destination>(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?(?:[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\]))"
    r":(?:(?P<port>[0-9]{1,5}):(?=/))?(?P<path>.+)"
)
CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# What is left of ssh://user:password@host/path, and of ssh://host:22/path, behind the first colon.
PASSWORD = re.compile(r"[^/]*@[^/]*/")
PORT = re.compile(r"[0-9]{1,5}/")

# The first line tells the length, where the host has GNU's or busybox's stat(1). Of a device it says 0.
MARK = b"oneconvert:"
LONGEST_MARK = 64
SCRIPT = """LC_ALL=C; export LC_ALL
printf 'oneconvert:%s\\n' "$(stat -L -c %s "$1" 2>/dev/null)"
exec cat "$1"
"""

# ssh(1): "exits with the exit status of the remote command or with 255 if an error occurred".
SSH_FAILED = 255
SSH_REASONS = (
    (
        b"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host has another key than known_hosts says; if that is right, correct known_hosts",
    ),
    (
        b"Host key verification failed",
        "the host's key is not known; connect to it once by hand as the user that OpenNebula runs as",
    ),
    (
        b"Permission denied (",
        "the host does not accept the SSH key of the user that OpenNebula runs as; add it to authorized_keys there",
    ),
    (b"Could not resolve hostname", "there is no host of that name"),
    (b"Connection refused", "the host refuses the connection; is its SSH server running, and on that port?"),
    (b"No route to host", "the host cannot be reached"),
    (b"Network is unreachable", "the host cannot be reached"),
    (b"timed out", "the host does not answer"),
)
NO_SUCH_FILE = "there is no such file on the host"
PORT_HINT = "; a port is written as in ssh://host:port:/path"
REMOTE_REASONS = (
    (b"No such file or directory", NO_SUCH_FILE),
    (b"Permission denied", "the user on the host may not read the file"),
    (b"Is a directory", "it is a directory"),
)


class RemoteFile:
    """The file as it arrives. ``length`` is what the host said that it is, None where it did not."""

    def __init__(self, output: Output, name: str, path: str, options: NetworkOptions) -> None:
        self.name = name
        self._path = path
        self._output = output
        self._options = options
        self._stopped = threading.Event()
        self.length, self._head = self._read_mark()

    def parts(self) -> None:
        """There is one way to the file."""

    def stop(self) -> None:
        """Make another thread that reads give up."""
        self._stopped.set()
        self._output.stop()

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        pace = Pace(self.name, self._options, self._stopped.wait)
        chunk = self._head or self._read(0)
        while chunk:
            received += len(chunk)
            with pace.pause():
                yield chunk
            pace.passed(len(chunk))
            chunk = self._read(received)
        if self.length not in (None, received):
            raise TransferError(
                f"{self.name}: {received} bytes arrived of a file of {self.length}; it was changed while it was read"
            )

    def _read_mark(self) -> tuple[int | None, bytes]:
        """What the first line says, and what has come behind it."""
        head = b""
        while b"\n" not in head and len(head) < LONGEST_MARK:
            try:
                chunk = self._output.read(self._options.patience)
            except TimeoutError:
                raise TransferError(f"{self.name}: the host does not answer") from None
            if not chunk:
                self._check_end(0)
                break
            head += chunk
        line, _, rest = head.partition(b"\n")
        length = line[len(MARK) :]
        if not line.startswith(MARK) or not (length.isdigit() or not length):
            raise TransferError(
                f"{self.name}: the host sends something else before the file; the login scripts of the user there "
                "must not write anything"
            )
        return int(length or 0) or None, rest

    def _read(self, received: int) -> bytes:
        try:
            chunk = self._output.read(self._options.idle_timeout)
        except TimeoutError:
            raise TransferError(f"{self.name}: the host stopped sending after {received} bytes") from None
        if not chunk:
            self._check_end(received)
        return chunk

    def _check_end(self, received: int) -> None:
        ended = self._output.completed
        if ended and ended.status:
            self._fail(ended, received)

    def _fail(self, ended: Completed, received: int) -> NoReturn:
        if ended.status == SSH_FAILED and received:
            announced = f" of {self.length}" if self.length else ""
            raise TransferError(
                f"{self.name}: the download is incomplete, the connection ended after {received}{announced} bytes"
            )
        reasons = SSH_REASONS if ended.status == SSH_FAILED else REMOTE_REASONS
        for words, reason in reasons:
            if words in ended.stderr:
                hint = PORT_HINT if reason == NO_SUCH_FILE and PORT.match(self._path) else ""
                raise TransferError(f"{self.name}: {reason}{hint}")
        raise TransferError(f"{self.name} cannot be read: {ended.explain()}")


@contextmanager
def open_remote_file(location: str, options: NetworkOptions) -> Iterator[RemoteFile]:
    """Start to read the file at ``location``.

    No ssh outlives the context. Raises NotAllowedError for what is no such location, TransferError when the file
    cannot be read.
    """
    destination, port, path = _parse(location)
    _check_host(destination.rpartition("@")[2].strip("[]"), options.rules)
    with stream(_command(destination, port, path, options), UNLIMITED) as output:
        name = f"ssh://{destination}:{port + ':' if port else ''}{path}"
        yield RemoteFile(output, name, path, options)


def _parse(location: str) -> tuple[str, str, str]:
    """Destination for ssh, port and path of a location."""
    if CONTROL_CHARACTER.search(location):
        raise NotAllowedError("the ssh:// location of the image has control characters in it")
    rest = location.partition("://")[2]
    match = LOCATION.fullmatch(rest)
    if match is None or (not match["port"] and PASSWORD.match(match["path"])):
        raise NotAllowedError(
            "the ssh:// location of the image is not understood; write ssh://host:/path, ssh://user@host:/path or "
            "ssh://host:port:/path"
        )
    return match["destination"], match["port"] or "", match["path"]


def _check_host(host: str, rules: AddressRules) -> None:
    """Judge the host by its addresses, or by its name alone where that is one of the SSH configuration only."""
    try:
        try:
            rules.resolve(host)
        except (OSError, UnicodeError):
            rules.check_unresolved(host)
    except NotAllowedError as error:
        raise NotAllowedError(f"the ssh:// location of the image: {error}") from None


def _command(destination: str, port: str, path: str, options: NetworkOptions) -> list[str]:
    alive = max(1, math.ceil(options.idle_timeout / 3))
    settings = {
        "BatchMode": "yes",
        "ConnectTimeout": str(math.ceil(options.connect_timeout)),
        "ServerAliveInterval": str(alive),
        "ServerAliveCountMax": "3",
        # A master would outlive us; one that is there already carries the commands that oned waits for.
        "ControlMaster": "no",
        "ControlPath": "none",
        "ClearAllForwardings": "yes",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "RemoteCommand": "none",
        "RequestTTY": "no",
        "LogLevel": "INFO",
    }
    command = ["ssh"]
    for name, value in settings.items():
        command += ["-o", f"{name}={value}"]
    if port:
        command += ["-p", port]
    user, at, host = destination.rpartition("@")
    # A path cannot be an option of cat, nor '-', its standard input.
    file = path if path.startswith("/") else f"./{path}"
    return [*command, "--", f"{user}{at}{host.strip('[]')}", f"exec sh -c {shlex.quote(SCRIPT)} sh {shlex.quote(file)}"]
