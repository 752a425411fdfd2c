"""qemu-img: every verb with explicit formats, under limits, without a network."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from socket import socket
from typing import Any

from oneconvert.errors import CommandError, ImageRefusedError
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import AGAIN, Inspection
from oneconvert.jobs.process import Completed, Limits, run
from oneconvert.jobs.workspace import MORE_SPACE

LOG = logging.getLogger(__name__)

MIB = 1024 * 1024
GIB = 1024 * MIB

# 'info' needs less than 55 MiB in every format; OpenStack gives it as much, after CVE-2015-5162.
INFO_LIMITS = Limits(address_space=GIB, cpu_seconds=30, file_size=1)
# 'convert' was seen to use 0.4 GiB; its caches of metadata grow with the image.
CONVERT_ADDRESS_SPACE = 3 * GIB
# The slowest that is still work: inflating on an old core under load, and some time to start.
CONVERT_SLOWEST = 2 * MIB  # bytes of the disk per CPU second
CONVERT_START = 300  # CPU seconds
# What a target format may need beside the data: 2 % for the tables, and headers.
METADATA_SHARE = 50
METADATA_BASE = 64 * MIB

_PATH = re.compile(r"(?:^|[\s'\"=])/\S")
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "HOME": "/"}


@dataclass(frozen=True)
class ImageInfo:
    """What ``qemu-img info`` says. ``virtual_size`` in bytes; ``files`` are all that it names, as it names them."""

    format: str
    virtual_size: int
    files: frozenset[str]


def probe(image: Path, name: str) -> ImageInfo:
    """What qemu-img takes ``image`` for by itself: for comparison only, see ``images.safety``."""
    return _info([image], image, name)


def info(image: Path, found: Inspection, name: str) -> ImageInfo:
    """Read the header of ``image`` as the inspection says. Raises ImageRefusedError when qemu-img cannot."""
    return _info(_opened(image, found), image, name)


def convert(
    source: Path | socket, found: Inspection, target: Path, target_format: ImageFormat, name: str = "the image"
) -> None:
    """Convert the whole disk, which messages call ``name``, from a file or from the network block device at the other
    end of a socket.

    Raises CommandError; the target may be there in part then.
    """
    size = found.virtual_size
    limits = Limits(
        address_space=CONVERT_ADDRESS_SPACE,
        cpu_seconds=CONVERT_START + size // CONVERT_SLOWEST,
        file_size=size + size // METADATA_SHARE + METADATA_BASE,
    )
    place, device = (source, None) if isinstance(source, Path) else (target, source)
    opened = _opened_device(source, found) if isinstance(source, socket) else _opened(source, found)
    completed = _qemu_img(["convert", *opened, "-O", target_format.value, target], limits, place, device)
    if completed.status != 0:
        why = _why(completed, place, target)
        advice = f"; it seems to be damaged: {AGAIN}" if "while reading" in why else ""
        advice = f"; {MORE_SPACE}" if os.strerror(errno.ENOSPC) in why else advice
        raise CommandError(f"{name} cannot be converted to {target_format}: {why}{advice}")


def check(image: Path, image_format: ImageFormat) -> None:
    """Verify the tables of an image that we made. Raises CommandError. Formats without a check pass."""
    if image_format not in (ImageFormat.QCOW2, ImageFormat.VMDK, ImageFormat.VDI, ImageFormat.VHDX):
        return
    completed = _qemu_img(["check", "-f", image_format.value, image], INFO_LIMITS, image)
    if completed.status != 0:
        raise CommandError(f"the converted image is damaged: {_why(completed, image)}")


def _opened(image: Path, found: Inspection) -> list[str | Path]:
    """How a file and its format are told: the format is never one of qemu-img's own choice."""
    if not found.options:
        return ["-f", found.format.value, image]
    # In this syntax a comma ends an option and two commas stand for one (qemu, docs/system/qemu-block-drivers).
    return _with_options(found, "file.driver=file", "file.filename=" + str(image).replace(",", ",,"))


def _opened_device(device: socket, found: Inspection) -> list[str | Path]:
    """How a block device and its format are told."""
    return _with_options(found, "file.driver=nbd", "file.server.type=fd", f"file.server.str={device.fileno()}")


def _with_options(found: Inspection, *options: str) -> list[str | Path]:
    return ["--image-opts", ",".join((f"driver={found.format.value}", *found.options, *options))]


def _info(opened: list[str | Path], image: Path, name: str) -> ImageInfo:
    completed = _qemu_img(["info", "--output=json", *opened], INFO_LIMITS, image)
    if completed.status != 0:
        raise ImageRefusedError(f"{name} cannot be read: {_why(completed, image)}")
    try:
        answer = json.loads(completed.stdout)
        specific = answer.get("format-specific", {}).get("data", {})
        return ImageInfo(
            format=str(answer["format"]),
            virtual_size=int(answer["virtual-size"]),
            files=frozenset(str(file) for file in _named_files(answer, specific) if file),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CommandError(f"qemu-img info gives no answer that can be understood for {name}") from None


def _named_files(answer: dict[str, Any], specific: dict[str, Any]) -> Iterator[object]:
    yield answer.get("backing-filename")
    yield answer.get("full-backing-filename")
    yield specific.get("data-file")
    for extent in specific.get("extents", []):
        yield extent.get("filename")


def _qemu_img(arguments: list[str | Path], limits: Limits, image: Path, device: socket | None = None) -> Completed:
    """Run it where it can reach the directory of ``image``, a block device, and nothing else of this host."""
    limits = replace(limits, files=(str(image.parent),))
    descriptors = (device.fileno(),) if device else ()
    completed = run(["qemu-img", *arguments], limits, environment=ENVIRONMENT, descriptors=descriptors)
    # The directory of the files is one that will be gone when somebody reads this.
    words = [each.name if isinstance(each, Path) else each for each in arguments]
    LOG.info("qemu-img %s: %.1f s", " ".join(words), completed.seconds)
    return completed


def _why(completed: Completed, image: Path, target: Path | None = None) -> str:
    """The reason without paths: those of the workspace mean nothing to the user, and what became of another file that
    an image names would tell a stranger whether it is there.
    """
    text = completed.explain().replace(str(image), "it").replace("qemu-img: qemu-img: ", "qemu-img: ")
    if target:
        text = text.replace(str(target), "the converted image")
    text = text.replace("Could not open 'it': ", "")
    return "qemu-img: it refers to another file" if _PATH.search(text) else text
