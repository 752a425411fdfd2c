"""The text of a VMDK descriptor: which files make up the disk.

The grammar is that of VMware's "Virtual Disk Format 5.0", section "The Descriptor File": comment lines, blank lines,
``name = value`` lines, and extent lines ``ACCESS SECTORS TYPE "FILE" [OFFSET]``. Names are case-insensitive. The
encoding is mostly, but not always, ASCII; what is compared here is ASCII in every one of them.
"""

from __future__ import annotations

import re

from oneconvert.images.inspectors.base import Refusal

ONE_FILE_TYPES = ("monolithicsparse", "streamoptimized")
NO_PARENT = "ffffffff"
LONGEST_TYPE_SHOWN = 40

_CREATE_TYPE = re.compile(r'^[ \t]*createtype[ \t]*=[ \t]*"?([^"\r\n]*)', re.IGNORECASE | re.MULTILINE)
_PARENT_CID = re.compile(r"parentcid[ \t]*=[ \t]*([^\s]*)", re.IGNORECASE)
_PARENT_HINT = re.compile(rb"parentfilenamehint", re.IGNORECASE)
_SETTING = re.compile(r"[a-z][\w.]*[ \t]*=.*", re.IGNORECASE)
_ACCESS = re.compile(r"(rw|rdonly|noaccess)\b", re.IGNORECASE)
_EXTENT = re.compile(
    r'(?:rw|rdonly|noaccess)[ \t]+\d+[ \t]+(?P<type>\w+)[ \t]+"(?P<file>[^"]*)"(?:[ \t]+\d+)?', re.IGNORECASE
)
_PLAIN_NAME = re.compile(r"[^/\\:\x00-\x1f]+")
_HEADING = re.compile(rb"#[ \t]*disk[ \t]*descriptorfile|createtype[ \t]*=", re.IGNORECASE)
# What vmdk_probe() in qemu's block/vmdk.c takes for a descriptor: comments and lines of blanks, then the version.
_QEMU_PROBE = re.compile(rb"(?:#[^\n]*\n| +\r?\n)*version=[123]\r?\n")


def looks_like_one(head: bytes) -> bool:
    """True when ``head``, the first sector of a file, is that of a descriptor to qemu or to a person."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return bool(_HEADING.search(head) or _QEMU_PROBE.match(head) or _QEMU_PROBE.match(text))


def create_type(descriptor: bytes) -> str:
    """The kind of disk as written, cut and free of odd characters; empty where the text does not say it."""
    found = _CREATE_TYPE.search(_text(descriptor))
    return re.sub(r"[^A-Za-z0-9_-]", "", found[1])[:LONGEST_TYPE_SHOWN] if found else ""


def check_parent(window: bytes) -> None:
    """Refuse a descriptor that names a parent, anywhere in the bytes that qemu searches for one."""
    cids = [cid.lower().strip('"') for cid in _PARENT_CID.findall(_text(window))]
    if _PARENT_HINT.search(window) or any(cid != NO_PARENT for cid in cids):
        raise Refusal(
            "refers to a parent disk, so it is not a whole image; "
            "consolidate its snapshots or clone it in full before publishing it"
        )


def check(descriptor: bytes) -> None:
    """Refuse a descriptor that is not that of one sparse extent within the same file."""
    text = _text(descriptor)
    kinds = _CREATE_TYPE.findall(text)
    if not kinds or any(kind.lower().strip() not in ONE_FILE_TYPES for kind in kinds):
        named = create_type(descriptor) or "no createType"
        raise Refusal(
            f"is a VMDK of a kind that is not a whole image ({named}); "
            "export it as monolithicSparse or streamOptimized before publishing it"
        )
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not all(_ACCESS.match(line) or _SETTING.fullmatch(line) for line in lines):
        raise Refusal("is damaged: its VMDK descriptor holds a line that makes no sense")
    extents = [_EXTENT.fullmatch(line) for line in lines if _ACCESS.match(line)]
    if len(extents) != 1:
        raise Refusal(f"is a VMDK disk of {len(extents)} extents, and only disks of one extent can be imported")
    extent = extents[0]
    if extent is None or extent["type"].lower() != "sparse":
        raise Refusal("is a VMDK disk whose extent is not sparse, so its data is in another file")
    if not _PLAIN_NAME.fullmatch(extent["file"]):
        raise Refusal("is a VMDK disk whose extent names a file elsewhere, so it is not a whole image")


def _text(descriptor: bytes) -> str:
    """The text up to the padding; every byte is a character, so that no odd one hides the rest."""
    return descriptor.split(b"\0", 1)[0].decode("latin-1")
