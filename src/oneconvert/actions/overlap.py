"""Converting an image while it arrives: who waits for whom."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from oneconvert.actions.arrival import receive
from oneconvert.actions.landing import Arrival, Head, Wanted
from oneconvert.errors import CommandError
from oneconvert.images import qemu_img
from oneconvert.images.format import ImageFormat
from oneconvert.jobs.relay import Relay
from oneconvert.jobs.threads import thread
from oneconvert.transfer.growing import KEPT_IN_FRONT, Filled, GrowingFile, check_fetched
from oneconvert.transfer.nbd import served
from oneconvert.transfer.passing import PassingDisk

if TYPE_CHECKING:
    from oneconvert.transfer.http_parts import Parts

LOG = logging.getLogger(__name__)

# The size of a file whose length nobody knows, for formats that do not look for anything at its end.
UNKNOWN_LENGTH = 1 << 50
WITHOUT_LENGTH = frozenset({ImageFormat.QCOW2, ImageFormat.VDI})


class Reception:
    """An image on its way in, received by a thread of ``relay``; the other parameters are those of ``receive``."""

    def __init__(
        self, relay: Relay, chunks: Iterable[bytes], name: str, length: int | None, wanted: Wanted, directory: Path
    ) -> None:
        self._relay = relay
        self._known = threading.Event()
        self._ended = threading.Event()
        self._head: Head | None = None
        self._arrival: Arrival | None = None
        self._error: Exception | None = None

        def work() -> None:
            try:
                self._arrival = receive(chunks, name, length, wanted, directory, self._announce)
            except Exception as error:
                self._error = error
            finally:
                self._ended.set()
                self._known.set()

        relay.start("receive", work)

    def head(self) -> Head | None:
        """The image that is to be converted, as soon as that can begin; None when it must be there first."""
        self._known.wait()
        return self._head

    def finish(self) -> Arrival:
        """The image, whole and verified. Raises what went wrong with it."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        assert self._arrival is not None
        return self._arrival

    def _announce(self, head: Head) -> None:
        if head.passing:
            self._relay.on_stop(head.passing.abandon)
        if head.passing or head.length is not None or head.found.format in WITHOUT_LENGTH:
            self._head = head
            self._known.set()


class Conversion:
    """What qemu-img made of an image that was still arriving. ``failure`` is why it did not."""

    def __init__(self, head: Head, failure: CommandError | None, disk: GrowingFile | None) -> None:
        self._head = head
        self._failure = failure
        self._source_is_gone = disk is None or disk.forgotten > KEPT_IN_FRONT
        self._fetched = disk.fetched if disk else {}

    def made(self, arrival: Arrival) -> bool:
        """Whether there is a result, and one of ``arrival``.

        Raises CommandError when qemu-img failed and nothing is left for another try, SourceChangedError when it read
        something else than what arrived.
        """
        if (arrival.path, arrival.found) != (self._head.spool.path, self._head.found):
            return False
        if self._failure is not None and self._source_is_gone:
            raise self._failure
        if self._failure is not None:
            LOG.warning("%s could not be converted while it arrived: %s", arrival.name, self._failure.sentence)
            return False
        check_fetched(self._fetched, arrival.path, arrival.name)
        return True


def convert_behind(head: Head, target: Path, target_format: ImageFormat, parts: Parts | None) -> Conversion | None:
    """Convert the image of ``head`` as it arrives; returns when qemu-img has ended. None when the image has turned out
    to be another one already. Raises CommandError when qemu-img failed, and nothing is left for another try.

    ``parts`` reads what is needed long before its turn.
    """
    LOG.info("%s is %s, and converted while it arrives", head.name, head.found.format)
    if head.passing:
        return Conversion(head, _convert_passing(head, head.passing, target, target_format), None)
    length = head.length or UNKNOWN_LENGTH
    apart = parts if head.position is not None and head.length is not None else None
    read_once = head.certain and head.found.format is ImageFormat.RAW
    failure = None
    with ExitStack() as stack:
        try:
            disk = GrowingFile(head.spool, length, read_once=read_once, parts=apart, position=head.position or 0)
        except FileNotFoundError:
            return None
        stack.enter_context(disk)
        if apart:

            def stop() -> None:
                disk.stop_fetching()
                apart.stop()

            stack.enter_context(thread("fetch", disk.fetch, stop))
        connection = stack.enter_context(served(disk))
        try:
            qemu_img.convert(connection, head.found, target, target_format, head.name)
        except CommandError as error:
            failure = error
    return Conversion(head, failure, disk)


def _convert_passing(head: Head, disk: PassingDisk, target: Path, target_format: ImageFormat) -> CommandError | None:
    """Convert the raw disk that passes through memory; why that failed, if it did because the rest will not arrive.

    Raises CommandError when it failed by itself: no more of the image need arrive then.
    """
    content = replace(head.found, format=ImageFormat.RAW, options=())
    try:
        with served(disk) as connection:
            qemu_img.convert(connection, content, target, target_format, head.name)
    except CommandError as error:
        if not disk.lost():
            raise
        return error
    return None


def convert_arrived(arrival: Arrival, target: Path, target_format: ImageFormat) -> None:
    """Convert an image that is there; a raw disk, which may be large where it came compressed, gives its space back
    while it is read. Raises CommandError.
    """
    if arrival.found.format is not ImageFormat.RAW:
        qemu_img.convert(arrival.path, arrival.found, target, target_format, arrival.name)
        return
    file = Filled(arrival.path)
    with GrowingFile(file, file.length, read_once=True) as disk, served(disk) as connection:
        qemu_img.convert(connection, arrival.found, target, target_format, arrival.name)
