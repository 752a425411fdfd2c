"""Handing a finished image to the native driver's own ``cp``, and taking it back when that fails."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from oneconvert.errors import HandOverError
from oneconvert.images.format import ImageFormat
from oneconvert.opennebula import seat
from oneconvert.opennebula.document import Document
from oneconvert.opennebula.invocation import Invocation
from oneconvert.opennebula.native import action_path, run_action
from oneconvert.opennebula.results import message_of

LOG = logging.getLogger(__name__)

MIB = 1024 * 1024
# Attributes of the image that tell a driver to change or to check what it is given: all that is done already.
SETTLED = ("MD5", "SHA1", "SHA256", "SHA512", "URL_ARGS")
# Lists that no driver reads. Native drivers pass the document on as one argument, which execve(2) limits to 128 KiB.
LISTS = ("DATASTORE/IMAGES", "MARKETPLACE")


@dataclass(frozen=True)
class FinishedImage:
    """An image that is ready for its datastore; ``virtual_size`` in bytes."""

    path: Path
    format: ImageFormat
    virtual_size: int


class HandOver:
    """One hand-over. As a context manager it removes what the native driver stored when the block fails."""

    def __init__(self, invocation: Invocation, document: Document, workspace: Path) -> None:
        self._invocation = invocation
        self._document = document
        self._seat = workspace / "seat"
        self._source = ""

    def __enter__(self) -> HandOver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._take_back()

    def store(self, image: FinishedImage) -> str:
        """Let the native ``cp`` store ``image`` and return the SOURCE that it gives.

        Raises HandOverError with what the native driver said.
        """
        native = action_path(self._invocation, "cp")
        program = native
        if seat.can_sit(native):
            seat.take_seat(self._seat, self._invocation.remotes, self._invocation.native)
            program = self._seat / "datastore" / self._invocation.native / "cp"
        # The driver's own copy would have the permissions that the umask leaves; so has ours.
        image.path.chmod(0o666 & ~_umask())
        completed = run_action(program, self._invocation.with_payload(self._rewritten(image).encode()))
        LOG.info("%s: %.1f s", native, completed.seconds)
        words = completed.stdout.decode(errors="replace").split("\n", 1)[0].split()
        if completed.status != 0 or not words:
            raise HandOverError(
                f"the native {self._invocation.native} driver did not store the image: "
                f"{message_of(completed.stderr) or completed.explain()}"
            )
        self._source = words[0]
        return self._source

    def _rewritten(self, image: FinishedImage) -> Document:
        document = Document.decode(self._document.encode())
        document.set("IMAGE/PATH", str(image.path))
        size_mib = max(int(document.text("IMAGE/SIZE", "0")), -(-image.virtual_size // MIB))
        document.set("IMAGE/SIZE", str(size_mib))
        for name in SETTLED:
            document.remove(f"IMAGE/TEMPLATE/{name}")
        safe_dirs = f"{image.path.parent} {document.text('DATASTORE/TEMPLATE/SAFE_DIRS')}".strip()
        document.set("DATASTORE/TEMPLATE/SAFE_DIRS", safe_dirs)
        document.set("DATASTORE/TEMPLATE/NO_DECOMPRESS", "yes")
        document.set("DATASTORE/TEMPLATE/CONVERT", "no")
        # fs/cp would read the whole file again to dig the holes that are there already.
        document.set("DATASTORE/TEMPLATE/SPARSE", "no")
        for path in LISTS:
            document.remove(path)
        return document

    def _take_back(self) -> None:
        if self._source:
            document = Document.decode(self._document.encode())
            document.set("IMAGE/SOURCE", self._source)
            removal = self._invocation.with_payload(document.encode())
            completed = run_action(action_path(self._invocation, "rm"), removal)
            if completed.status != 0:
                LOG.error("the native rm left %s: %s", self._source, completed.explain())
        for target in seat.targets(self._seat):
            target.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
