"""The disk image formats oneconvert knows, under qemu's names for them."""

from __future__ import annotations

from enum import Enum


class ImageFormat(str, Enum):
    """A disk image format; the value is the name that ``qemu-img -f`` takes and OpenNebula stores as FORMAT."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHD = "vpc"
    VHDX = "vhdx"
    VDI = "vdi"
    LUKS = "luks"

    def __str__(self) -> str:
        return self.value

    @property
    def opennebula(self) -> str:
        """The name OpenNebula hands to libvirt: to it an encrypted LUKS volume is a raw disk, as in fs/cp."""
        return "raw" if self is ImageFormat.LUKS else self.value


def converts(found: ImageFormat, target: ImageFormat | None) -> bool:
    """Whether an image of format ``found`` must be converted for ``target``; None takes any.

    Nobody but the owner of the passphrase can convert an encrypted disk; OpenNebula runs it as it is.
    """
    return target not in (None, found) and found is not ImageFormat.LUKS
