"""OVF descriptors and manifests: which files of an appliance are its disks, and what their digests are.

The format is DMTF's DSP0243, versions 1.0 to 2.1: sections 5.1 (package and manifest), 7.1 (references), 9.1 (disks).
Programs differ in the namespace (two of DMTF, with and without a slash at the end; one of VMware's drafts), in
attributes with or without a prefix, even one that was never declared, and in how a section is written (VirtualBox and
VMware: ``DiskSection``; oVirt and OVF 0.9: ``Section`` with an ``xsi:type``). So names are compared without their
namespaces. VirtualBox lists CD-ROMs among the disks, and vCenter tells a chunk size for files that fit in one chunk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import unquote

from lxml import etree

from oneconvert.errors import ImageRefusedError

LARGEST = 1024 * 1024
"""Bytes of a descriptor or a manifest."""
LARGEST_CAPACITY = 1 << 62
LONGEST_SHOWN = 80

HARMLESS_ERRORS = frozenset({etree.ErrorTypes.NS_ERR_UNDEFINED_NAMESPACE, etree.ErrorTypes.WAR_NS_URI})
"""A prefix that is not declared, a namespace that is no URI."""
MOST_ODD_NAMES = 50
"""How many of them one descriptor may have; libxml2 tells no more than the first hundred errors."""
DISK_SECTIONS = ("DiskSection", "SharedDiskSection")
OPTICAL_FORMAT = "ecma-119"
"""In the URI that is the format of a CD-ROM."""
FIRST_CHUNK = ".000000000"
"""What follows the name of a file that is one chunk."""
COMPRESSIONS = ("", "identity", "gzip", "bzip2")
# The units that OVF 0.9 and 1.0 name; later versions write "byte * 2^30" (DSP0004, annex on programmatic units).
UNITS: MappingProxyType[str, int] = MappingProxyType(
    {"": 1, "byte": 1, "bytes": 1}
    | {f"{prefix}bytes": 1 << 10 * power for power, prefix in enumerate(("kilo", "mega", "giga", "tera"), 1)}
    | {f"{letter}b": 1 << 10 * power for power, letter in enumerate("kmgt", 1)}
)
_PROGRAMMATIC_UNIT = re.compile(r"bytes?\*(2|10)\^(\d{1,2})")
_NUMBER = re.compile(r"\d{1,19}", re.ASCII)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# Of VMware and VirtualBox; OpenSSL 3 writes SHA2-256 for the same.
_MANIFEST_LINE = re.compile(
    r"(?P<kind>SHA1|SHA(?:2-)?256|SHA(?:2-)?512) ?\((?P<file>.+)\) ?= ?(?P<digest>[0-9A-Fa-f]+)", re.IGNORECASE
)
DIGEST_LENGTHS: MappingProxyType[str, int] = MappingProxyType({"sha1": 40, "sha256": 64, "sha512": 128})
ALGORITHMS = frozenset(DIGEST_LENGTHS)
# SHA-512 takes more time than anything else that is done with an image, and manifests hardly ever have it.
USUAL_ALGORITHMS = ALGORITHMS - {"sha512"}


@dataclass(frozen=True)
class OvfDisk:
    """A disk with a file. ``number`` counts them from 1, in the order in which the machines have them attached."""

    number: int
    disk_id: str
    file_name: str
    """As written; see matches()."""
    capacity_bytes: int | None
    """What the guest should see; None where the descriptor does not say, or leaves it to a property."""
    compression: str
    """Of the file, on top of the image format: "gzip", "bzip2" (of XenCenter), or "" and "identity" for none."""
    size: int | None
    """Bytes of the file as it is in the archive; None where the descriptor does not say."""
    chunked: bool = False
    """Whether the name of the file may have the number of its only chunk behind it."""

    def matches(self, path: str) -> bool:
        """Whether the file of this disk is the one at ``path``, relative to the descriptor.

        ``path`` is without "./". The name is a URI by the standard, so some programs write a blank as %20, and others
        do not.
        """
        name = self.file_name.removeprefix("./")
        names = {name, unquote(name)}
        return path in names or (self.chunked and path.removesuffix(FIRST_CHUNK) in names)


@dataclass(frozen=True)
class Descriptor:
    """The disks that have files, and how many are only to be made empty."""

    disks: tuple[OvfDisk, ...]
    blank: int


@dataclass(frozen=True)
class Digest:
    """What a manifest says of a file: ``algorithm`` as hashlib calls it, ``digest`` in lower case."""

    algorithm: str
    digest: str


def read_descriptor(xml: bytes, name: str) -> Descriptor:
    """Read the text of an ``.ovf`` file, which messages call ``name``.

    Raises ImageRefusedError for what is not one, and for disks that cannot be imported: without their file in the
    references, outside of the archive, in several chunks, or on top of a parent.
    """
    envelope = _parse(xml, name)
    files = _files(envelope, name)
    disks: list[OvfDisk] = []
    seen: set[str] = set()
    blank = 0
    attached = _attached(envelope)
    in_order = sorted(
        _disk_elements(envelope), key=lambda disk: attached.get(_attribute(disk, "diskId"), len(attached))
    )
    for element in in_order:
        if OPTICAL_FORMAT in _attribute(element, "format").lower():
            continue
        disk_id, reference = _attribute(element, "diskId"), _attribute(element, "fileRef")
        label = f"disk {_quoted(disk_id)}"
        if disk_id in seen:
            raise ImageRefusedError(f"{name} is damaged: {label} is described more than once; export it again")
        seen.add(disk_id)
        if _attribute(element, "parentRef"):
            raise ImageRefusedError(
                f"{name} is refused: {label} holds only the changes to another disk; consolidate its snapshots "
                "and export it again"
            )
        if not reference:
            blank += 1
            continue
        file = files.get(reference)
        if file is None:
            raise ImageRefusedError(
                f"{name} is damaged: {label} is in the file {_quoted(reference)}, "
                "which its references do not have; export it again"
            )
        disks.append(_disk(element, len(disks) + 1, disk_id, file, name))
    return Descriptor(tuple(disks), blank)


def read_manifest(text: bytes, name: str) -> dict[str, Digest]:
    """Read the text of an ``.mf`` file, which messages call ``name``: file name -> digest.

    Raises ImageRefusedError for a line that is not understood: a digest that cannot be checked must not pass for one
    that was.
    """
    if len(text) > LARGEST:
        raise ImageRefusedError(f"{name} is too large for a manifest: {len(text)} bytes; export it again")
    try:
        lines = re.split(r"\r\n|\r|\n", text.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ImageRefusedError(f"{name} is damaged: the manifest is not UTF-8 text; export it again") from None
    digests: dict[str, Digest] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _MANIFEST_LINE.fullmatch(line.strip())
        algorithm = found["kind"].lower().replace("2-", "") if found else ""
        if found is None or len(found["digest"]) != DIGEST_LENGTHS[algorithm]:
            raise ImageRefusedError(
                f"{name} is damaged: line {number} of the manifest is not a SHA1, SHA256 or SHA512 digest "
                "of a file; export it again"
            )
        if found["file"] in digests:
            raise ImageRefusedError(
                f"{name} is damaged: the manifest names {_quoted(found['file'])} more than once; export it again"
            )
        digests[found["file"]] = Digest(algorithm, found["digest"].lower())
    return digests


def _parse(xml: bytes, name: str) -> etree._Element:
    """The root element. The parser itself refuses elements that are nested deeper than 256."""
    if len(xml) > LARGEST:
        raise ImageRefusedError(f"{name} is too large for an OVF descriptor: {len(xml)} bytes; export it again")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, recover=True)
    try:
        root = etree.fromstring(xml, parser)
    except (etree.XMLSyntaxError, ValueError):
        root = None
    # It goes on behind every error, and only these are harmless here.
    errors = [error.type for error in parser.error_log if error.level != etree.ErrorLevels.WARNING]
    if root is None or len(errors) > MOST_ODD_NAMES or not HARMLESS_ERRORS.issuperset(errors):
        raise ImageRefusedError(f"{name} is damaged: the OVF descriptor is not well-formed XML; export it again")
    if root.getroottree().docinfo.internalDTD is not None:
        raise ImageRefusedError(
            f"{name} is refused: the OVF descriptor has a DOCTYPE, which none needs; export it again"
        )
    if _local(root) != "Envelope":
        raise ImageRefusedError(
            f"{name} is not an OVF descriptor: it begins with {_quoted(_local(root))}; export it again"
        )
    return root


def _files(envelope: etree._Element, name: str) -> dict[str, etree._Element]:
    """The references of the envelope by their identifiers."""
    files: dict[str, etree._Element] = {}
    for references in _children(envelope, "References"):
        for file in _children(references, "File"):
            identifier = _attribute(file, "id")
            if identifier in files:
                raise ImageRefusedError(
                    f"{name} is damaged: its references name {_quoted(identifier)} more than once; export it again"
                )
            files[identifier] = file
    return files


def _disk_elements(envelope: etree._Element) -> Iterator[etree._Element]:
    for section in envelope.iterchildren(tag=etree.Element):
        kind = _local(section)
        if kind == "Section":
            # The value is a qualified name: "ovf:DiskSection_Type".
            kind = _attribute(section, "type").rpartition(":")[2].replace("_Type", "")
        if kind in DISK_SECTIONS:
            yield from _children(section, "Disk")


def _attached(envelope: etree._Element) -> dict[str, int]:
    """The identifiers of the disks that the machines name, in the order of their hardware, which VMware's tools do not
    keep in the section of the disks. The value is "ovf:/disk/ID" or "/disk/ID".
    """
    resources = (each.text or "" for each in envelope.iter(etree.Element) if _local(each) == "HostResource")
    named = (text.strip().partition("/disk/")[2] for text in resources)
    return {disk_id: number for number, disk_id in enumerate(dict.fromkeys(filter(None, named)))}


def _disk(element: etree._Element, number: int, disk_id: str, file: etree._Element, name: str) -> OvfDisk:
    file_name, compression = _attribute(file, "href"), _attribute(file, "compression").lower()
    label = f"the file {_quoted(file_name)} of disk {_quoted(disk_id)}"
    size = _number(_attribute(file, "size"), f"the size of {label}", name)
    chunk = _number(_attribute(file, "chunkSize"), f"the chunk size of {label}", name)
    if chunk is not None and (size is None or size > chunk):
        raise ImageRefusedError(
            f"{name} is refused: {label} is cut in chunks, which cannot be joined; export the appliance again "
            "without a chunk size"
        )
    if compression not in COMPRESSIONS:
        raise ImageRefusedError(
            f"{name} is refused: {label} has the compression {_quoted(compression)}, "
            "and only gzip and bzip2 are known; export it again"
        )
    if not all(map(_is_plain, (file_name, unquote(file_name)))):
        raise ImageRefusedError(f"{name} is refused: {label} is not a file beside the descriptor; export it again")
    return OvfDisk(number, disk_id, file_name, _capacity(element, disk_id, name), compression, size, chunk is not None)


def _is_plain(file_name: str) -> bool:
    """Whether ``file_name`` is a path that stays below the directory of the descriptor."""
    return not (
        not file_name
        or file_name.startswith("/")
        or _URL.match(file_name)
        or "\\" in file_name
        or not {"", ".", ".."}.isdisjoint(file_name.removeprefix("./").split("/"))
        or any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in file_name)
    )


def _capacity(element: etree._Element, disk_id: str, name: str) -> int | None:
    text = _attribute(element, "capacity")
    if text.startswith("${"):
        return None
    number = _number(text, f"the capacity of disk {_quoted(disk_id)}", name)
    if number is None:
        return None
    unit = _attribute(element, "capacityAllocationUnits")
    compact = "".join(unit.split()).lower()
    programmatic = _PROGRAMMATIC_UNIT.fullmatch(compact)
    factor = int(programmatic[1]) ** int(programmatic[2]) if programmatic else UNITS.get(compact)
    if factor is None or number * factor > LARGEST_CAPACITY:
        raise ImageRefusedError(
            f"{name} is damaged: the capacity of disk {_quoted(disk_id)} is {number} of the unit {_quoted(unit)}; "
            "export it again"
        )
    return number * factor


def _number(text: str, what: str, name: str) -> int | None:
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise ImageRefusedError(
            f"{name} is damaged: {what} is {_quoted(text)}, which is no number of bytes; export it again"
        )
    return int(text)


def _children(parent: etree._Element, local: str) -> Iterator[etree._Element]:
    return (child for child in parent.iterchildren(tag=etree.Element) if _local(child) == local)


def _local(element: etree._Element) -> str:
    return _without_namespace(str(element.tag))


def _without_namespace(name: str) -> str:
    """A name without its namespace, or without the prefix that the parser left because nothing declares it."""
    return name.rpartition("}")[2].rpartition(":")[2]


def _attribute(element: etree._Element, local: str) -> str:
    """The value of the attribute of that name in whatever namespace, stripped; empty where there is none."""
    # Names first: to find the value of each would take a search through all of them.
    for key in element.keys():  # noqa: SIM118 (an element iterates over its children)
        if _without_namespace(str(key)) == local:
            return (element.get(key) or "").strip()
    return ""


def _quoted(text: str) -> str:
    """A text from outside for a message: printable ASCII, bounded."""
    shown = ascii(text[:LONGEST_SHOWN])[1:-1]
    cut = len(text) > LONGEST_SHOWN or len(shown) > LONGEST_SHOWN
    return f"'{shown[:LONGEST_SHOWN]}...'" if cut else f"'{shown}'"
