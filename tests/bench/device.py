"""What it costs qemu-img to read an image through our block device instead of its file, once all of it is there."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from pathlib import Path

from bench.corpus import Corpus
from bench.measure import drop_caches
from oneconvert.images import qemu_img
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import Inspection, StreamInspector
from oneconvert.transfer.growing import Filled, GrowingFile
from oneconvert.transfer.nbd import served

_IMAGES = ("raw", "qcow2", "qcow2-zlib", "qcow2-zstd", "vmdk-sparse", "vmdk-stream", "vhdx", "vdi")
_STEP = 1024 * 1024


def device(corpus: Corpus, rounds: int, directory: Path) -> str:
    """A table in Markdown: images of ``corpus`` to qcow2, by a cold cache."""
    lines = ["| image → qcow2 | file, s | device, s | device / file |", "|---|---:|---:|---:|"]
    for name in _IMAGES:
        image = corpus.image(name)
        found = _inspected(image)
        pairs = [tuple(_seconds(image, found, directory, way) for way in (False, True)) for _ in range(rounds)]
        direct, through = (statistics.median(column) for column in zip(*pairs))
        ratio = statistics.median(through / direct for direct, through in pairs)
        lines.append(f"| {name} | {direct:.1f} | {through:.1f} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def _inspected(image: Path) -> Inspection:
    inspector = StreamInspector(image.name)
    with image.open("rb") as file:
        while chunk := file.read(_STEP):
            inspector.feed(chunk)
    return inspector.finish()


def _seconds(image: Path, found: Inspection, directory: Path, through_device: bool) -> float:
    directory.mkdir()
    # qemu-img may open the files beside its target and no others.
    source = directory / image.name
    os.link(image, source)
    result = directory / "result"
    try:
        drop_caches()
        started = time.monotonic()
        if through_device:
            filled = Filled(source)
            with GrowingFile(filled, filled.length, read_once=False) as disk, served(disk) as connection:
                qemu_img.convert(connection, found, result, ImageFormat.QCOW2)
        else:
            qemu_img.convert(source, found, result, ImageFormat.QCOW2)
        return time.monotonic() - started
    finally:
        shutil.rmtree(directory)
