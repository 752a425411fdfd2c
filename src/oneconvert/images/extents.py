"""Whether an image file is as long as its own tables say.

``qemu-img convert`` reads what lies beyond the end of a qcow2, VMDK or VDI file as zeros and succeeds, so a download
that was cut short would become a disk with holes in it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

from oneconvert.errors import ImageRefusedError
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import AGAIN, WHOLE, Inspection, refused
from oneconvert.images.inspectors import Refusal
from oneconvert.images.layout import qcow2, vdi, vhd, vhdx, vmdk
from oneconvert.images.layout.source import DamagedError, Source, TruncatedError

LAYOUTS: MappingProxyType[ImageFormat, Callable[[Source], None]] = MappingProxyType(
    {
        ImageFormat.QCOW2: qcow2.check,
        ImageFormat.VMDK: vmdk.check,
        ImageFormat.VDI: vdi.check,
        ImageFormat.VHD: vhd.check,
        ImageFormat.VHDX: vhdx.check,
    }
)
"""Raw and LUKS have no tables: all of the file is the disk."""

LARGEST_FILE = (1 << 63) - 1


def check_complete(path: Path, inspection: Inspection, name: str) -> None:
    """Refuse the image in ``path`` when its allocation tables point beyond its end.

    ``inspection`` is that of the same bytes, accepted by the StreamInspector; ``name`` is what messages call the
    image. Memory is bounded and the tables alone are read, once. Raises ImageRefusedError.
    """
    layout = LAYOUTS.get(inspection.format)
    if layout is None:
        return
    size = path.stat().st_size
    with path.open("rb", buffering=0) as file:
        try:
            layout(Source(file.fileno(), size))
        except TruncatedError as error:
            if error.needed > LARGEST_FILE:
                raise ImageRefusedError(
                    f"{name} is damaged: it points to byte {error.needed}, which no file has; {AGAIN}"
                ) from error
            raise ImageRefusedError(
                f"{name} is truncated: it needs {error.needed} bytes, and {size} are there; {WHOLE}"
            ) from error
        except DamagedError as error:
            raise ImageRefusedError(f"{name} is damaged: {error}; {AGAIN}") from error
        except Refusal as error:
            raise refused(name, error) from error
