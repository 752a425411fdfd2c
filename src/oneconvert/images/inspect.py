"""What an image is, found from its bytes while they arrive, and whether it may come in."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oneconvert.errors import ImageRefusedError, NotAnImageError
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspectors import (
    AROUND_CONTENT,
    CONTENT,
    INSPECTORS,
    PLAIN_CONTENT,
    Inspector,
    NeverADiskInspector,
    Refusal,
)
from oneconvert.images.inspectors.library import SafetyViolation

SECTOR = 512
AGAIN = "export it again and publish that"
WHOLE = "check that it was published whole"
END = 64 * 1024
"""Bytes at either end of a file in which every image has its magic."""
ALIGNMENT, FOOTER = 4096, 512
SMALLEST_STEP = 64 * 1024
"""Bytes that are gathered before the inspectors look: small chunks would make each of them copy its region anew."""

# Without a handler of the application's, logging prints warnings to stderr, which oned takes for the driver's answer.
logging.getLogger("oslo_utils").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Inspection:
    """What is known of an image that was accepted."""

    format: ImageFormat
    virtual_size: int
    """Bytes of the disk inside, a multiple of 512."""
    probed_as: ImageFormat
    """What qemu-img finds when it probes: a fixed VHD and LUKS version 2 look like raw to it."""
    options: tuple[str, ...] = ()
    """Options of qemu's block driver without which some versions of it would read another disk."""
    notes: tuple[str, ...] = ()
    """Clauses for the log: "3 internal snapshots are dropped by a conversion"."""


def refused(name: str, refusal: Refusal, error: type[ImageRefusedError] = ImageRefusedError) -> ImageRefusedError:
    """The refusal as the user reads it; where it does not tell what to do, the image can only be made anew."""
    reason = str(refusal)
    advice = WHOLE if reason.startswith("is truncated") else AGAIN
    return error(f"{name} {reason}" if "; " in reason else f"{name} {reason}; {advice}")


def image_inside(path: Path) -> str:
    """What the raw disk in ``path`` is to a reader that looks for images: "a qcow2 image"; empty for a plain disk.

    Reads no more than its two ends, however large it is.
    """
    with path.open("rb", buffering=0) as file:
        head = file.read(END)
        file.seek(max(len(head), path.stat().st_size - END))
        tail = file.read(END)
    for inspector in (each() for each in INSPECTORS if each not in PLAIN_CONTENT):
        # What follows the magic is of no interest here, and of the wrong place.
        with suppress(Exception):
            inspector.eat_chunk(head)
            inspector.eat_chunk(tail)
            inspector.finish()
        if inspector.format_match:
            return inspector.LABEL
    return ""


class StreamInspector:
    """Finds the format of an image from its bytes as they stream by, and refuses it as soon as that is certain.

    ``name`` is what messages call the image. Memory is bounded: the inspectors keep a few regions, 1 MiB or 2 at most
    each, and those that can no longer match are dropped.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._gathered = bytearray()
        self._length = 0
        self._reading: list[Inspector] = [inspector() for inspector in INSPECTORS]
        self._found: list[Inspector] = []
        self._checked: list[Inspector] = []

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the image, any number of them.

        Raises ImageRefusedError as soon as no later byte could save the image.
        """
        self._length += len(chunk)
        if not self._gathered and len(chunk) >= SMALLEST_STEP:
            self._look(chunk)
            return
        self._gathered += chunk
        if len(self._gathered) >= SMALLEST_STEP:
            self._look_at_gathered()

    def so_far(self, length: int | None) -> Inspection | None:
        """What the image is by all that its end cannot change; None while more of it must be seen.

        ``length`` is the number of bytes that it will have: without it, nothing can be said of a raw disk, nor where it
        is that of a fixed VHD, which is a raw disk and a footer.
        """
        open_questions = not self._length or any(not each.decided and not each.AT_END for each in self._reading)
        if open_questions or any(inspector not in self._checked for inspector in self._found):
            return None
        unknown = length is None or length < SECTOR or length % ALIGNMENT == FOOTER
        if unknown and all(inspector.FORMAT is None for inspector in self._found):
            return None
        return self._verdict(length or 0)

    def finish(self) -> Inspection:
        """Give the verdict after the last byte; raises ImageRefusedError."""
        self._look_at_gathered()
        if not self._length:
            raise NotAnImageError(f"{self._name} is empty; {WHOLE}")
        for inspector in self._reading:
            inspector.finish()
        self._find()
        self._judge()
        for inspector in self._found:
            if inspector not in self._checked:
                raise ImageRefusedError(
                    f"{self._name} is truncated: it is {inspector.LABEL}, but ends within its header "
                    f"after {self._length} bytes; {WHOLE}"
                )
            self._check(inspector, at_end=True)
        return self._verdict(self._length)

    def _look_at_gathered(self) -> None:
        chunk = bytes(self._gathered)
        self._gathered.clear()
        if chunk:
            self._look(chunk)

    def _look(self, chunk: bytes) -> None:
        for inspector in self._reading:
            try:
                inspector.eat_chunk(chunk)
            except Exception as error:
                # Ours look at nothing but their magic before it matches: what then cannot be read is damaged, and
                # must not go on as raw.
                raise self._refused(inspector, error) from error
        self._find()
        self._reading = [i for i in self._reading if not (i.decided and not i.format_match) and not i.complete]
        self._judge()

    def _find(self) -> None:
        """Note the inspectors that have come to match."""
        for inspector in self._reading:
            if inspector.format_match and inspector not in self._found:
                self._found.append(inspector)

    def _judge(self) -> None:
        """Refuse what is certain by now; each inspector's checks of the head run once."""
        self._found.sort(key=lambda inspector: not isinstance(inspector, NeverADiskInspector))
        if self._found and not isinstance(self._found[0], NeverADiskInspector):
            self._refuse_ambiguous()
        for inspector in self._found:
            if inspector.head_complete and inspector not in self._checked:
                self._checked.append(inspector)
                self._check(inspector, at_end=False)

    def _refuse_ambiguous(self) -> None:
        """One file that is two kinds of image is one kind to us and another to the next reader."""
        kinds = [i for i in self._found if not isinstance(i, CONTENT)]
        content = [i for i in self._found if isinstance(i, CONTENT)]
        around = all(isinstance(kind, AROUND_CONTENT) for kind in kinds)
        if len(kinds) > 1 or (content and not around):
            labels = " and ".join(sorted(inspector.LABEL for inspector in self._found))
            raise ImageRefusedError(f"{self._name} is ambiguous: it is {labels} at the same time; {AGAIN}")

    def _check(self, inspector: Inspector, *, at_end: bool) -> None:
        try:
            inspector.run_checks(at_end=at_end)
        except SafetyViolation as violation:
            raise self._refused(inspector, violation) from violation

    def _refused(self, inspector: Inspector, error: Exception) -> ImageRefusedError:
        if isinstance(error, Refusal):
            return refused(self._name, error, inspector.ERROR)
        return ImageRefusedError(
            f"{self._name} is damaged: it looks like {inspector.LABEL}, but its header makes no sense; {AGAIN}"
        )

    def _verdict(self, length: int) -> Inspection:
        for inspector in self._found:
            if inspector.FORMAT is not None:
                return Inspection(
                    format=inspector.FORMAT,
                    virtual_size=inspector.virtual_size,
                    probed_as=inspector.probed_as,
                    options=inspector.options,
                    notes=inspector.notes,
                )
        if length < SECTOR:
            raise NotAnImageError(
                f"{self._name} is not a disk image: its {length} bytes are less than one sector; {WHOLE}"
            )
        size = -(-length // SECTOR) * SECTOR
        notes = () if size == length else (f"its length, {length} bytes, is not in whole sectors",)
        return Inspection(ImageFormat.RAW, size, ImageFormat.RAW, notes=notes)
