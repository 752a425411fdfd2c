"""What arrived: the disk image out of the bytes of a source, be it plain, compressed or a member of an archive.

The bytes are looked at once, as they come. Nothing is extracted: of an archive only what may be a disk is kept, in
files of the workspace that have names of ours.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable

from oneconvert.actions.landing import Announcement, Head, Landed, land
from oneconvert.actions.sizes import bounded
from oneconvert.errors import ImageRefusedError, TransferError
from oneconvert.images import ovf, vmdk_set
from oneconvert.images.extents import check_complete
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import Inspection
from oneconvert.transfer.archives import HEAD, Member, find_archive, members
from oneconvert.transfer.compression import decompressed, find_compression, unpacked_length

LOG = logging.getLogger(__name__)

# '.tar.gz' that holds '.vmdk.gz' has two layers, one on each side of the archive; more is a game.
MOST_LAYERS = 3
LARGEST_TEXT = 1024 * 1024
ROOM = 64 * 1024 * 1024
# Members of appliances that are never a disk: descriptions, signatures, the memory of a firmware, CD-ROMs.
NO_DISKS = (
    ".cert", ".iso", ".json", ".log", ".md", ".md5", ".nvram", ".pdf", ".sha1", ".sha256", ".sha512", ".sig", ".txt",
    ".vmsd", ".vmx", ".vmxf", ".xml",
)  # fmt: skip


@dataclass(frozen=True)
class Arrival:
    """A disk image in the workspace. ``extents`` are the files beside ``path`` that belong to it, for a split VMDK;
    ``unfolded`` says that ``path`` is the raw disk that was in it.
    """

    name: str
    path: Path
    found: Inspection
    extents: frozenset[Path] = frozenset()
    unfolded: bool = False


@dataclass(frozen=True)
class Wanted:
    """What is wanted of a file that comes in.

    ``disk`` is the number or file name of one of several disks (ONECONVERT_DISK, empty where there is one only).
    Without ``unpack`` the bytes are the image. What is compressed must not unpack to more than ``most`` bytes.
    ``converts`` tells of an image whether it will be converted.
    """

    disk: str
    unpack: bool
    most: int
    converts: Callable[[Inspection], bool]


@dataclass(frozen=True)
class Opened:
    """A stream whose first bytes are ``head``; ``length`` and ``position`` are those of landing.Head."""

    head: bytes
    chunks: Iterator[bytes]
    length: int | None
    position: int | None


@dataclass(frozen=True)
class Kept:
    """A member that may be a disk, in a file of the workspace, or why it was refused."""

    member: str
    path: Path
    landed: Landed | ImageRefusedError


@dataclass
class Contents:
    """What an archive turned out to hold."""

    descriptor: tuple[str, ovf.Descriptor] | None = None
    manifest: tuple[str, dict[str, ovf.Digest]] | None = None
    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)
    sets: dict[str, vmdk_set.VmdkSet] = field(default_factory=dict)


def receive(
    chunks: Iterable[bytes],
    name: str,
    length: int | None,
    wanted: Wanted,
    directory: Path,
    announce: Callable[[Head], None] | None = None,
) -> Arrival:
    """Bring the image in ``chunks`` into ``directory``.

    ``name`` is what messages call the source, ``length`` the number of its bytes, None where it is not known. An image
    that will be converted is announced as soon as its head is there; what is returned may then still turn out to be
    another. Raises ImageRefusedError, TransferError or NotWhileArrivingError.
    """
    opened = Opened(b"", iter(chunks), length, 0)
    if wanted.unpack:
        opened = _unpacked(opened, name, wanted.most)
    kind = find_archive(opened.head)
    if kind is None:
        # The tables and the footer of an image may make it longer than its disk.
        chunks = bounded(opened.chunks, wanted.most + wanted.most // 64 + ROOM, name)
        announcement = Announcement(announce, wanted.converts, certain=True) if announce else None
        return _whole(name, land(chunks, name, directory / "source", opened.length, opened.position, announcement))
    LOG.info("%s is a %s archive", name, kind)
    contents = _read_archive(opened, kind, name, directory, wanted, announce)
    _verify(contents, name)
    return _choose(contents, name, wanted.disk, directory)


def _unpacked(opened: Opened, name: str, most: int) -> Opened:
    """Undo layers of compression."""
    for _ in range(MOST_LAYERS):
        head, chunks = _peek(opened.chunks)
        if find_compression(head) is None:
            return replace(opened, head=head, chunks=chunks)
        opened = Opened(head, bounded(decompressed(chunks, name), most, name), unpacked_length(head), None)
    raise ImageRefusedError(f"{name} is compressed more than {MOST_LAYERS - 1} times; publish it compressed once")


def _peek(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    source = iter(chunks)
    first = b""
    for chunk in source:
        first += chunk
        if len(first) >= HEAD:
            break
    return first[:HEAD], itertools.chain((first,) if first else (), source)


def _whole(name: str, landed: Landed) -> Arrival:
    if not landed.unfolded:
        check_complete(landed.path, landed.found, name)
    return Arrival(name, landed.path, landed.found, unfolded=landed.unfolded)


def _read_archive(
    opened: Opened,
    kind: str,
    name: str,
    directory: Path,
    wanted: Wanted,
    announce: Callable[[Head], None] | None,
) -> Contents:
    contents = Contents()
    for number, member in enumerate(members(opened.chunks, kind, name), 1):
        suffix = Path(member.path.lower()).suffix
        running = {algorithm: hashlib.new(algorithm) for algorithm in _algorithms(contents, kind)}
        stream = _digested(member, running)
        described = f"{member.path} in {name}"
        if suffix == ".ovf":
            if contents.descriptor:
                raise ImageRefusedError(f"{name} holds more than one .ovf file, so it is not one appliance")
            contents.descriptor = member.path, ovf.read_descriptor(_text(stream, described), described)
        elif suffix == ".mf":
            if contents.manifest:
                raise ImageRefusedError(f"{name} holds more than one manifest, so it is not one appliance")
            contents.manifest = member.path, ovf.read_manifest(_text(stream, described), described)
        elif not _never_a_disk(member.path, suffix):
            position = None if None in (opened.position, member.offset) else member.offset
            inner = _unpacked(Opened(b"", stream, member.size, position), described, wanted.most)
            stream = inner.chunks
            if vmdk_set.is_descriptor(inner.head):
                contents.sets[member.path] = vmdk_set.read_set(_text(stream, described), described)
            else:
                certain = _is_wanted(member.path, contents, wanted.disk)
                announcement = None
                if announce and certain is not False:
                    announcement, announce = Announcement(announce, wanted.converts, bool(certain)), None
                path = directory / f"member-{number}"
                contents.kept[member.path] = _kept(member.path, inner, described, path, announcement)
        for _ in stream:  # the rest of it, for its digest
            pass
        contents.digests[member.path] = {algorithm: each.hexdigest() for algorithm, each in running.items()}
    return contents


def _is_wanted(member: str, contents: Contents, disk: str) -> bool | None:
    """Whether this member is the disk that will be chosen; None when that is likely, and open until the last."""
    if contents.descriptor:
        ovf_path, descriptor = contents.descriptor
        disks = descriptor.disks
        matching = [each for each in disks if each.matches(Path(member).name)]
        if Path(member).parent != Path(ovf_path).parent or not matching:
            return False
        number = list(dict.fromkeys(each.file_name for each in disks)).index(matching[0].file_name) + 1
        return len(disks) == 1 if not disk else disk in (str(number), member, Path(member).name)
    if contents.sets:
        return False
    return None if not disk or disk in (member, Path(member).name) else False


def _kept(member: str, opened: Opened, described: str, path: Path, wanted: Announcement | None) -> Kept:
    """Keep a member that may be a disk, or why it is none: that matters only if it is the one that is wanted."""
    try:
        landed = land(opened.chunks, described, path, opened.length, opened.position, wanted, keep=True)
    except ImageRefusedError as error:
        return Kept(member, path, error)
    return Kept(member, path, landed)


def _algorithms(contents: Contents, kind: str) -> Iterable[str]:
    """The digests that a member needs: of an appliance, those of its manifest, or all while that has not come."""
    if contents.manifest:
        return {digest.algorithm for digest in contents.manifest[1].values()}
    return ("sha1", "sha256", "sha512") if kind == "tar" else ()


def _never_a_disk(path: str, suffix: str) -> bool:
    # macOS keeps its attributes of a file in a file beside it.
    return suffix in NO_DISKS or path.startswith("__MACOSX/") or Path(path).name.startswith("._")


def _digested(member: Member, running: dict[str, hashlib._Hash]) -> Iterator[bytes]:
    for chunk in member:
        for each in running.values():
            each.update(chunk)
        yield chunk


def _text(chunks: Iterable[bytes], described: str) -> bytes:
    text = b""
    for chunk in chunks:
        text += chunk
        if len(text) > LARGEST_TEXT:
            raise ImageRefusedError(f"{described} is larger than {LARGEST_TEXT} bytes, which no description is")
    return text


def _verify(contents: Contents, name: str) -> None:
    """Hold the members against the manifest, which names files beside itself."""
    if contents.manifest:
        manifest, expected = contents.manifest
        for file, digest in expected.items():
            actual = contents.digests.get(_beside(manifest, file))
            if actual is None:
                raise TransferError(f"{name} is incomplete: its manifest names {file!a}, which is not in it")
            if actual[digest.algorithm] != digest.digest:
                raise TransferError(f"{name} is damaged: {file!a} does not have the digest that its manifest says")


def _choose(contents: Contents, name: str, wanted: str, directory: Path) -> Arrival:
    """The disk that is wanted, or the only one."""
    disks = _disks(contents, name)
    if not disks:
        raise ImageRefusedError(f"{name} is an archive without a disk image in it")
    if wanted.isdecimal() and 1 <= int(wanted) <= len(disks):
        chosen = disks[int(wanted) - 1]
    elif wanted:
        named = [path for path in disks if wanted in (path, Path(path).name)]
        if len(named) != 1:
            raise ImageRefusedError(f"{name} has no disk {wanted!a} (ONECONVERT_DISK); it has {_listed(disks)}")
        (chosen,) = named
    elif len(disks) == 1:
        (chosen,) = disks
    else:
        raise ImageRefusedError(
            f"{name} has {len(disks)} disks: {_listed(disks)}; choose one with the image's attribute ONECONVERT_DISK"
        )
    for path, kept in contents.kept.items():
        if path != chosen and chosen not in contents.sets:
            kept.path.unlink(missing_ok=True)
    described = f"{chosen} in {name}"
    if chosen in contents.sets:
        return _assembled(contents, chosen, described, directory)
    kept = contents.kept[chosen]
    if isinstance(kept.landed, ImageRefusedError):
        raise kept.landed
    return _whole(described, kept.landed)


def _disks(contents: Contents, name: str) -> list[str]:
    """The members that are disks: those of the appliance's description in its order, else all that may be one."""
    if contents.descriptor:
        ovf_path, descriptor = contents.descriptor
        beside = [path for path in (*contents.kept, *contents.sets) if Path(path).parent == Path(ovf_path).parent]
        found = []
        for disk in descriptor.disks:
            matching = [path for path in beside if disk.matches(Path(path).name)]
            if not matching:
                raise ImageRefusedError(f"{name} is incomplete: its disk {disk.file_name!a} is not in it")
            found.append(matching[0])
        return list(dict.fromkeys(found))  # two disks may be of one file
    extents = {_beside(path, file) for path, each in contents.sets.items() for file in each.file_names}
    return [path for path in (*contents.sets, *contents.kept) if path not in extents]


def _beside(member: str, file: str) -> str:
    """The member ``file`` in the directory of another."""
    directory = member.rpartition("/")[0]
    return f"{directory}/{file}" if directory else file


def _listed(disks: list[str]) -> str:
    return ", ".join(f"{number} {path!a}" for number, path in enumerate(disks[:20], 1))


def _assembled(contents: Contents, chosen: str, described: str, directory: Path) -> Arrival:
    """A VMDK whose descriptor and extents are members of their own, under a descriptor of our own words."""
    disk = contents.sets[chosen]
    files: dict[str, Path] = {}
    for file in disk.file_names:
        kept = contents.kept.get(_beside(chosen, file))
        if kept is not None:
            files[file] = kept.path
    vmdk_set.check_extents(disk, files, described)
    path = directory / "source"
    path.write_bytes(vmdk_set.rewrite(disk, {file: files[file].name for file in files}))
    found = Inspection(ImageFormat.VMDK, disk.virtual_size, probed_as=ImageFormat.VMDK)
    return Arrival(described, path, found, frozenset(files.values()))
