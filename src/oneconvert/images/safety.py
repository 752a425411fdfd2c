"""What we found in an image, held against what qemu-img finds.

Native drivers let qemu-img probe the file that we hand over. So the format that it would find must be the one that we
declare, on the way in and on the way out: whatever fools one of the two readers is refused. A raw disk has nothing in
front of what a guest or a publisher wrote, so its content is looked at before qemu-img may probe it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from oneconvert.errors import ImageRefusedError
from oneconvert.images import qemu_img
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import Inspection, image_inside


def confirm_source(image: Path, inspection: Inspection, name: str, extents: Collection[Path] = ()) -> None:
    """Raise ImageRefusedError unless qemu-img reads ``image`` as the inspection does, and from no other files.

    ``extents`` are files beside it that it may read.
    """
    probed = qemu_img.probe(image, name)
    if probed.format != inspection.probed_as.value:
        raise ImageRefusedError(
            f"{name} is ambiguous: its content is {inspection.format}, but qemu-img takes it for {probed.format}; "
            "publish it as a qcow2 image"
        )
    if inspection.format is ImageFormat.LUKS:
        return  # its header tells qemu-img nothing more, and version 2 nothing at all
    agreed = inspection.probed_as is inspection.format and not inspection.options
    found = probed if agreed else qemu_img.info(image, inspection, name)
    if found.files - {str(image), *map(str, extents)}:
        raise ImageRefusedError(f"{name} refers to other files, so it is not a whole image")
    if found.virtual_size != inspection.virtual_size:
        raise ImageRefusedError(
            f"{name} is ambiguous: its header says {inspection.virtual_size} bytes, qemu-img finds {found.virtual_size}"
        )


def confirm_result(image: Path, image_format: ImageFormat, virtual_size: int, name: str) -> None:
    """Raise ImageRefusedError unless the converted ``image`` is what it should be, and nothing else."""
    if image_format is ImageFormat.RAW:
        inside = image_inside(image)
        if inside:
            raise _nested(name, inside)
    probed = qemu_img.probe(image, name)
    if image_format is ImageFormat.RAW and probed.format == ImageFormat.LUKS.value:
        return  # an encrypted disk: OpenNebula runs it as a raw one, and so does every native driver
    if probed.format != image_format.value:
        raise _nested(name, f"a {probed.format} image")
    if probed.files - {str(image)} or probed.virtual_size != virtual_size:
        raise ImageRefusedError(f"{name}: the converted disk has {probed.virtual_size} bytes instead of {virtual_size}")
    qemu_img.check(image, image_format)


def _nested(name: str, label: str) -> ImageRefusedError:
    return ImageRefusedError(
        f"{name} is refused: the content of its disk is itself {label}, which OpenNebula would take for the image; "
        "publish that one"
    )
