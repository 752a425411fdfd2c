"""Handing a finished image to the native driver's own ``cp``, and taking it back when that fails."""

from __future__ import annotations

import logging
import os
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from oneconvert.errors import HandOverError
from oneconvert.images.format import ImageFormat
from oneconvert.jobs.process import Completed
from oneconvert.jobs.signals import interruptible
from oneconvert.jobs.workspace import give_up_claims
from oneconvert.opennebula import seat
from oneconvert.opennebula.document import Document
from oneconvert.opennebula.invocation import Invocation
from oneconvert.opennebula.native import action_path, run_action
from oneconvert.opennebula.request import Request
from oneconvert.opennebula.results import message_of

LOG = logging.getLogger(__name__)

MIB = 1024 * 1024
# Attributes of the image that tell a driver to change or to check what it is given: all that is done already.
SETTLED = ("MD5", "SHA1", "SHA256", "SHA512", "URL_ARGS")
# Lists that no driver reads. Native drivers pass the document on as one argument, which execve(2) limits to 128 KiB.
LISTS = ("DATASTORE/IMAGES", "MARKETPLACE")


@dataclass(frozen=True)
class FinishedImage:
    """An image that is ready for its datastore; the size of its disk, ``virtual_size``, in bytes."""

    path: Path
    format: ImageFormat
    virtual_size: int

    @property
    def size_mib(self) -> int:
        """Whole MiB that a volume needs to hold it."""
        return -(-self.virtual_size // MIB)


@dataclass(frozen=True)
class Stored:
    """What oned is told of an image in its datastore."""

    source: str
    format: ImageFormat


class HandOver:
    """One hand-over. As a context manager it removes what the native driver stored when the block fails."""

    def __init__(
        self, invocation: Invocation, document: Document, request: Request, workspace: Path, *, sits: bool = True
    ) -> None:
        """Without ``sits`` the native driver runs by its own path, whatever it is."""
        self._sits = sits
        self._invocation = invocation
        self._request = request
        self._document = document
        self._workspace = workspace
        self._source = ""

    def __enter__(self) -> HandOver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._source:
            self._take_back()

    def store(self, image: FinishedImage) -> Stored:
        """Let the native ``cp`` store ``image``; the SOURCE is what it says.

        Raises HandOverError with what the native driver said.
        """
        native = action_path(self._invocation, "cp")
        try:
            program = self._take_seat(native)
            # The driver's own copy would have the permissions that the umask leaves; so has ours.
            image.path.chmod(0o666 & ~_umask())
        except OSError as error:
            raise HandOverError(f"cannot prepare the hand-over in {self._workspace}: {error.strerror}") from None
        call = self._invocation.with_payload(self._rewritten(image).encode())
        # What a driver stores through our downloader is known from the start; of others only when they have ended.
        with interruptible() if program != native else nullcontext():
            completed = run_action(program, call)
        LOG.info("%s: %.1f s", native, completed.seconds)
        words = completed.stdout.decode(errors="replace").split("\n", 1)[0].split()
        if completed.status != 0 or not words:
            raise HandOverError(
                f"the native {self._invocation.native} driver did not store the image: {self._why(completed)}"
            )
        self._source = words[0]
        return Stored(self._source, image.format)

    def settle(self) -> None:
        """The image belongs to oned now: oned was told, and nothing can go wrong any more."""
        give_up_claims(self._workspace)

    def _take_seat(self, native: Path) -> Path:
        """The program to run: the native ``cp`` itself, or the way to it through a seat."""
        # Over a bridge the image leaves this host through a pipe, and nobody here knows what is stored.
        if not self._sits or self._request.datastore.has_bridge or not seat.can_sit(native):
            return native
        mirror = self._workspace / "seat"
        seat.take_seat(mirror, self._invocation.remotes, self._invocation.native)
        return mirror / "datastore" / self._invocation.native / "cp"

    def _why(self, completed: Completed) -> str:
        """The reason of a failure: our downloader's, or else the sentence of the driver."""
        with suppress(OSError):
            reason = (self._workspace / "reason").read_text(errors="replace").strip().rpartition(": ")[2]
            if reason:
                return reason
        return message_of(completed.stderr) or completed.explain()

    def _rewritten(self, image: FinishedImage) -> Document:
        """The document for the native ``cp``: all that oneconvert did is done, PATH is ours and safe."""
        document = self._copy()
        document.set("IMAGE/PATH", str(image.path))
        document.set("IMAGE/SIZE", str(max(self._request.image.size_mib, image.size_mib)))
        for name in SETTLED:
            document.remove(f"IMAGE/TEMPLATE/{name}")
        # Not the directory of PATH: to native drivers the words of SAFE_DIRS are regular expressions.
        document.set("DATASTORE/TEMPLATE/SAFE_DIRS", "/")
        document.set("DATASTORE/TEMPLATE/NO_DECOMPRESS", "yes")
        document.set("DATASTORE/TEMPLATE/CONVERT", "no")
        # fs/cp would read the whole file again to dig the holes that are there already.
        document.set("DATASTORE/TEMPLATE/SPARSE", "no")
        return document

    def _take_back(self) -> None:
        document = self._copy()
        document.set("IMAGE/SOURCE", self._source)
        call = self._invocation.with_payload(document.encode())
        completed = run_action(action_path(self._invocation, "rm"), call)
        if completed.status != 0:
            LOG.error("the native rm left %s: %s", self._source, completed.explain())

    def _copy(self) -> Document:
        """The document without what no native driver reads."""
        document = Document.decode(self._document.encode())
        for path in LISTS:
            document.remove(path)
        return document


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
