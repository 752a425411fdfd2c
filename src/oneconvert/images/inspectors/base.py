"""What our inspectors add to those of oslo.utils.

An inspector declares the regions of the stream it wants and at least one named safety check (oslo refuses to build
one without). Ours also say when their verdict is known, run the checks that need only the head of the image before
its rest has arrived, and word a failed check for the user.
"""

from __future__ import annotations

from typing import ClassVar

from oneconvert.errors import ImageRefusedError
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspectors.library import (
    EndCaptureRegion,
    FileInspector,
    SafetyCheck,
    SafetyViolation,
)


class Refusal(SafetyViolation):
    """A check that failed; the text goes on where the name of the image ends: "is encrypted; ..."."""


class EndCheck(SafetyCheck):
    """A check that needs the last bytes of the image and runs after them."""


class TailRegion(EndCaptureRegion):
    """The last bytes of the stream, without copying every chunk that passes, as oslo's region does."""

    def capture(self, chunk: bytes, current_position: int) -> bytes:
        """Take the end of ``chunk``; ``current_position`` is the position in the stream after it."""
        if len(chunk) >= self.length:
            self.data = chunk[-self.length :]
        else:
            self.data = (bytes(self.data) + chunk)[-self.length :]
        self.offset = current_position - len(self.data)
        return b""


class Inspector(FileInspector):
    """The base of every inspector here; mixed in front of oslo's class where that exists."""

    LABEL: ClassVar[str]
    """What the user calls it, with its article: "a qcow2 image"."""
    FORMAT: ClassVar[ImageFormat | None] = None
    """None for what is only found to be refused."""
    ERROR: ClassVar[type[ImageRefusedError]] = ImageRefusedError
    """What a refusal is raised as."""
    AT_END: ClassVar[bool] = False
    """Whether only the last bytes of an image can show that it is one of this kind."""
    MAGIC: ClassVar[str] = "header"
    """The region that holds all that ``format_match`` looks at."""

    @property
    def decided(self) -> bool:
        """True once ``format_match`` will not change any more."""
        return self.region(self.MAGIC).complete

    @property
    def head_complete(self) -> bool:
        """True once every region is there but those at the end of the stream.

        A kind of file that may be shorter than what is looked at overrides this.
        """
        return all(r.complete for r in self._capture_regions.values() if not isinstance(r, EndCaptureRegion))

    @property
    def probed_as(self) -> ImageFormat:
        """What qemu-img finds when it probes this image."""
        return self.FORMAT or ImageFormat.RAW

    @property
    def options(self) -> tuple[str, ...]:
        """Options that qemu's block driver needs to read the same disk as we do."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the administrator may want to know of an image that is accepted."""
        return ()

    def data(self, region: str) -> bytes:
        """The bytes captured for ``region`` so far; none where the region was never asked for."""
        return bytes(self.region(region).data) if self.has_region(region) else b""

    def run_checks(self, *, at_end: bool) -> None:
        """Run the checks of the head, or those of the end of the stream.

        Raises SafetyViolation: a Refusal with words of ours, or oslo's own where a check could not run.
        """
        for check in self._safety_checks.values():
            if isinstance(check, EndCheck) == at_end:
                check()
