"""VMDK disks in several files: a text descriptor, and the extents that it names.

qemu-img opens whatever file a descriptor names, so it never sees one from outside. What is understood of it is written
anew, with names of ours, and opened where no other files are.

The grammar is that of VMware's "Virtual Disk Format 5.0", section "The Descriptor File"; what qemu makes of it is in
vmdk_parse_extents() and vmdk_open_vmdk4() of its block/vmdk.c.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from oneconvert.errors import ImageRefusedError
from oneconvert.images.inspectors.vmdk_descriptor import looks_like_one
from oneconvert.images.layout import vmdk as layout
from oneconvert.images.layout.source import DamagedError, Source, TruncatedError
from oneconvert.images.vmdk_header import GD_AT_END, MAGIC, SECTOR, SparseHeader

LARGEST = 64 * 1024
"""Bytes of a descriptor; real ones have some hundred, and one line for every 2 GiB of a split disk."""
LARGEST_DISK = 1 << 54
"""In sectors."""
LONGEST_SHOWN = 80
NO_PARENT = "ffffffff"

# Kind of disk, in lower case -> how it is spelled, and the kind of its extents.
KINDS: MappingProxyType[str, tuple[str, str]] = MappingProxyType(
    {
        "monolithicflat": ("monolithicFlat", "FLAT"),
        "twogbmaxextentflat": ("twoGbMaxExtentFlat", "FLAT"),
        "twogbmaxextentsparse": ("twoGbMaxExtentSparse", "SPARSE"),
        "vmfs": ("vmfs", "VMFS"),
    }
)
EXTENT_KINDS = "FLAT|SPARSE|VMFS|ZERO|VMFSSPARSE|VMFSRDM|VMFSRAW|SESPARSE"
EXPORT = "export the disk as one monolithicSparse or streamOptimized file, or as an OVA, before publishing it"

# What Workstation calls the character set of the Windows it runs on; names are in it. Else it is UTF-8.
ENCODINGS = (*(f"windows-125{page}" for page in range(9)), "big5", "euc-jp", "euc-kr", "gb18030", "gbk", "shift_jis")
_ENCODING = re.compile(rb'^[ \t]*encoding[ \t]*=[ \t]*"([\w-]{1,20})"', re.IGNORECASE | re.MULTILINE)
_SETTING = re.compile(r"([A-Za-z][\w.]*)[ \t]*=[ \t]*(.*)")
_ACCESS = re.compile(r"(?:RW|RDONLY|NOACCESS)\b", re.IGNORECASE)
_EXTENT = re.compile(
    rf"(?P<access>RW|RDONLY|NOACCESS)[ \t]+(?P<sectors>\d{{1,19}})[ \t]+(?P<kind>{EXTENT_KINDS})"
    r'(?:[ \t]+"(?P<file>[^"]*)"(?:[ \t]+(?P<offset>\d{1,19}))?)?',
    re.IGNORECASE | re.ASCII,
)
_PLAIN_NAME = re.compile(r"(?!\.\.?$)[^/\\:]{1,255}")
# Without capitals, so that no name contains a word that qemu looks for anywhere in the text.
_OUR_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# What qemu-img and VMware's tools say of the adapter, which means nothing to the content: carried over where harmless.
_HARMLESS: MappingProxyType[str, re.Pattern[str]] = MappingProxyType(
    {
        "ddb.adapterType": re.compile(r"[A-Za-z]{1,20}"),
        "ddb.geometry.cylinders": re.compile(r"[0-9]{1,10}"),
        "ddb.geometry.heads": re.compile(r"[0-9]{1,3}"),
        "ddb.geometry.sectors": re.compile(r"[0-9]{1,3}"),
        "ddb.virtualHWVersion": re.compile(r"[0-9]{1,3}"),
    }
)


@dataclass(frozen=True)
class Extent:
    """A part of the disk: ``sectors`` of it, in the file ``file_name`` from sector ``offset`` on."""

    file_name: str
    kind: str
    """FLAT and VMFS: the bytes themselves. SPARSE: a sparse VMDK without a descriptor of its own."""
    sectors: int
    offset: int


@dataclass(frozen=True)
class VmdkSet:
    """What is understood of a descriptor."""

    create_type: str
    version: int
    cid: str
    extents: tuple[Extent, ...]
    harmless: tuple[tuple[str, str], ...]
    """The settings that are carried over."""

    @property
    def virtual_size(self) -> int:
        """Bytes of the disk."""
        return SECTOR * sum(extent.sectors for extent in self.extents)

    @property
    def file_names(self) -> tuple[str, ...]:
        """The files that the disk is made of besides the descriptor, each once, in order."""
        return tuple(dict.fromkeys(extent.file_name for extent in self.extents))


def is_descriptor(head: bytes) -> bool:
    """Whether a file that begins with ``head``, a sector of it, may be a descriptor for read_set()."""
    return looks_like_one(head[:SECTOR])


def read_set(text: bytes, name: str) -> VmdkSet:
    """Read a descriptor, which messages call ``name``.

    Raises ImageRefusedError for one that is not wholly understood, for names that are not those of files beside it,
    for parents, and for kinds of disk that no set of files makes whole.
    """
    settings, lines = _read_lines(text, name)
    if any(key.startswith(("encryption", "keysafe")) for key in settings):
        raise ImageRefusedError(f"{name} is refused: the VMDK disk is encrypted; decrypt it before publishing it")
    if settings.get("parentcid", NO_PARENT).lower() != NO_PARENT or "parentfilenamehint" in settings:
        raise ImageRefusedError(
            f"{name} is refused: the VMDK disk holds only the changes to another one, its parent; "
            "consolidate its snapshots before publishing it"
        )
    written = settings.get("createtype", "")
    if written.lower() not in KINDS:
        raise ImageRefusedError(
            f"{name} is refused: it is the descriptor of a VMDK disk of the kind {_quoted(written)}; {EXPORT}"
        )
    create_type, kind = KINDS[written.lower()]
    version, cid = settings.get("version", ""), settings.get("cid", "").lower()
    if version not in ("1", "2", "3") or not re.fullmatch(r"[0-9a-f]{1,8}", cid):
        raise ImageRefusedError(
            f"{name} is damaged: the VMDK descriptor lacks a known version or its CID; export it again"
        )
    extents = tuple(_read_extent(line, kind, name) for line in lines)
    if not extents or sum(extent.sectors for extent in extents) > LARGEST_DISK:
        raise ImageRefusedError(f"{name} is damaged: the extents of the VMDK descriptor make no disk; export it again")
    if kind == "SPARSE" and len({extent.file_name for extent in extents}) < len(extents):
        raise ImageRefusedError(
            f"{name} is damaged: the VMDK descriptor names one extent more than once; export it again"
        )
    harmless = tuple(
        (key, settings[key.lower()])
        for key, pattern in _HARMLESS.items()
        if pattern.fullmatch(settings.get(key.lower(), ""))
    )
    return VmdkSet(create_type, int(version), cid.rjust(8, "0"), extents, harmless)


def rewrite(disk: VmdkSet, names: Mapping[str, str]) -> bytes:
    """The descriptor in our own words; ``names`` has the name of ours for each file name of ``disk``.

    Raises ValueError for names that are not ours: small letters, digits, ".", "_" and "-".
    """
    for file_name in disk.file_names:
        if not _OUR_NAME.fullmatch(names[file_name]):
            raise ValueError(f"{names[file_name]!r} must not be written to a VMDK descriptor")
    lines = [
        "# Disk DescriptorFile",
        f"version={disk.version}",
        f"CID={disk.cid}",
        f"parentCID={NO_PARENT}",
        f'createType="{disk.create_type}"',
        "",
        "# Extent description",
    ]
    for extent in disk.extents:
        # qemu wants the offset of a FLAT extent, and refuses one anywhere else.
        offset = f" {extent.offset}" if extent.kind == "FLAT" else ""
        lines.append(f'RW {extent.sectors} {extent.kind} "{names[extent.file_name]}"{offset}')
    lines += ["", "#DDB", *(f'{key} = "{value}"' for key, value in disk.harmless), ""]
    return "\n".join(lines).encode("ascii")


def check_extents(disk: VmdkSet, files: Mapping[str, Path], name: str) -> None:
    """Check that every file of ``disk`` is there, of its kind and whole; ``files`` are the copies by file name.

    qemu-img reads zeros beyond the end of a file, and follows an extent without a size to files that a descriptor in
    it names. Raises ImageRefusedError; ``name`` is what messages call the descriptor.
    """
    for extent in disk.extents:
        label = f"the extent {_quoted(extent.file_name)} of {name}"
        path = files.get(extent.file_name)
        if path is None:
            raise ImageRefusedError(f"{label} is missing; publish all files of the disk in one archive")
        with path.open("rb", buffering=0) as file:
            source = Source(file.fileno(), path.stat().st_size)
            try:
                if extent.kind == "SPARSE":
                    _check_sparse(extent, source)
                    layout.check(source)
                else:
                    source.need((extent.offset + extent.sectors) * SECTOR)
            except TruncatedError as error:
                raise ImageRefusedError(
                    f"{label} is truncated: it needs {error.needed} bytes, and {source.size} are there; "
                    "check that it was published whole"
                ) from error
            except DamagedError as error:
                raise ImageRefusedError(f"{label} is damaged: {error}; export it again") from error


def _read_lines(text: bytes, name: str) -> tuple[dict[str, str], list[str]]:
    """The settings, by their names in lower case, and the extent lines."""
    if len(text) > LARGEST:
        raise ImageRefusedError(f"{name} is too large for a VMDK descriptor: {len(text)} bytes; export it again")
    declared = _ENCODING.search(text)
    encoding = declared[1].decode("ascii").lower() if declared else ""
    encoding = encoding if encoding in ENCODINGS else "utf-8"
    try:
        # Some tools pad the text to a sector.
        characters = text.rstrip(b"\0").decode(encoding)
    except UnicodeDecodeError:
        raise ImageRefusedError(
            f"{name} is damaged: the VMDK descriptor is not {encoding.upper()} text; export it again"
        ) from None
    settings: dict[str, str] = {}
    extents: list[str] = []
    for number, line in enumerate((line.strip(" \t\r") for line in characters.split("\n")), 1):
        if not all(character.isprintable() or character == "\t" for character in line):
            raise ImageRefusedError(
                f"{name} is damaged: line {number} of the VMDK descriptor has odd characters; export it again"
            )
        setting = _SETTING.fullmatch(line)
        if not line or line.startswith("#"):
            continue
        if _ACCESS.match(line):
            extents.append(line)
        elif setting is None or setting[1].lower() in settings:
            raise ImageRefusedError(
                f"{name} is damaged: line {number} of the VMDK descriptor makes no sense or repeats another; "
                "export it again"
            )
        else:
            settings[setting[1].lower()] = setting[2].strip('"')
    return settings, extents


def _read_extent(line: str, kind: str, name: str) -> Extent:
    found = _EXTENT.fullmatch(line)
    if found is None:
        raise ImageRefusedError(
            f"{name} is damaged: the VMDK descriptor has the extent line {_quoted(line)}; export it again"
        )
    # qemu passes over extents that are not RW, and over those without a file: what follows them would move up.
    if found["access"].upper() != "RW" or found["kind"].upper() != kind or not found["file"]:
        raise ImageRefusedError(
            f"{name} is refused: the VMDK descriptor has the extent line {_quoted(line)}, "
            f"which is not that of a writable {kind} extent with a file; {EXPORT}"
        )
    if not _PLAIN_NAME.fullmatch(found["file"]):
        raise ImageRefusedError(
            f"{name} is refused: the VMDK descriptor names the extent {_quoted(found['file'])}, "
            "which is not a file beside it; export it again"
        )
    sectors, offset = int(found["sectors"]), int(found["offset"] or 0)
    if not sectors or offset > LARGEST_DISK or (offset and kind != "FLAT"):
        raise ImageRefusedError(
            f"{name} is damaged: the VMDK descriptor has the extent line {_quoted(line)}; export it again"
        )
    return Extent(found["file"], kind, sectors, offset)


def _check_sparse(extent: Extent, source: Source) -> None:
    """One header, in front, that claims what the descriptor does; qemu takes the size from the header."""
    header = SparseHeader.parse(source.read(0, SECTOR))
    if header.magic != MAGIC or header.version not in (1, 2, 3):
        raise DamagedError("it is not a sparse VMDK extent")
    if header.capacity != extent.sectors:
        raise DamagedError(f"its header claims {header.capacity} sectors, its descriptor {extent.sectors}")
    if header.directory == GD_AT_END:
        raise DamagedError("it is a stream, which is not part of a set")


def _quoted(text: str) -> str:
    """A text from outside for a message: printable ASCII, bounded."""
    shown = ascii(text[:LONGEST_SHOWN])[1:-1]
    cut = len(text) > LONGEST_SHOWN or len(shown) > LONGEST_SHOWN
    return f"'{shown[:LONGEST_SHOWN]}...'" if cut else f"'{shown}'"
