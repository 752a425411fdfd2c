"""What oned hears from us: one line on standard output, or one sentence on standard error."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from oneconvert.errors import HandOverError
from oneconvert.images.format import ImageFormat
from oneconvert.opennebula.document import Document

# Up to 5.12 one_datastore.rb reports the text between these lines and nothing else (CommandManager.rb).
MARKER_BEGIN = "ERROR MESSAGE --8<------"
MARKER_END = "ERROR MESSAGE ------>8--"
# oned cuts nothing, but the text becomes an attribute of the image and a line of its log.
LONGEST = 1000
# Lines that begin so are for the log: scripts_common.sh of all releases writes them.
LOG_PREFIXES = ("ERROR:", "INFO:", "WARN:", "WARNING:", "DEBUG:")


def expects_markers(document: Document | None, remotes: Path) -> bool:
    """Whether this release wants its error between the marker lines: those that have IMAGE/FSTYPE, up to 5.12.

    Without a document to look at, the release is read from ``remotes/VERSION``.
    """
    if document is not None and document.has("IMAGE"):
        return document.has("IMAGE/FSTYPE")
    try:
        return int((remotes / "VERSION").read_text().split(".", 1)[0]) < 6
    except (OSError, ValueError):
        return False


def write_result(source: str, image_format: ImageFormat) -> None:
    """Write ``SOURCE FORMAT``, the one line that oned reads. Raises HandOverError when nobody listens any more."""
    write_lines(f"{source} {image_format.opennebula}")


def write_lines(*lines: str) -> None:
    """Write what an action prints. Raises HandOverError when nobody listens any more."""
    try:
        _write(1, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise HandOverError(f"oned does not listen any more: {error.strerror}") from None


def write_info(sentence: str) -> None:
    """Write a line for oned.log: releases from 7.0 on pass it on, those before drop it after a success."""
    _write_if_heard(f"INFO: cp: {sentence[:LONGEST]}\n")


def write_error(sentence: str, markers: bool) -> None:
    """Write the sentence that becomes IMAGE/TEMPLATE/ERROR; oned drops one that begins with '-'."""
    text = sentence[:LONGEST].lstrip("-")
    _write_if_heard(f"{MARKER_BEGIN}\n{text}\n{MARKER_END}\n" if markers else f"{text}\n")


def message_of(stderr: bytes) -> str:
    """The sentence for the user in what a native driver wrote to standard error; empty when there is none."""
    lines = stderr.decode(errors="replace").splitlines()
    plain = [
        line.strip()
        for line in lines
        if line.strip() and not line.startswith((*LOG_PREFIXES, MARKER_BEGIN, MARKER_END))
    ]
    return plain[-1] if plain else ""


def _write(descriptor: int, text: str) -> None:
    # One write: nothing of another process can come in between, and nothing stays in a buffer.
    os.write(descriptor, text.encode(errors="replace"))


def _write_if_heard(text: str) -> None:
    with suppress(OSError):  # oned is gone; the log has it
        _write(2, text)
