"""What arrived: the disk image out of the bytes of a source, be it plain, compressed or a member of an archive.

The bytes are looked at once, as they come. Nothing is extracted: of an archive only what may be a disk is kept, in
files of the workspace that have names of ours.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from oneconvert.actions.sizes import bounded
from oneconvert.errors import ImageRefusedError, TransferError
from oneconvert.images import ovf, vmdk_set
from oneconvert.images.extents import check_complete
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import Inspection, StreamInspector
from oneconvert.transfer.archives import HEAD, Member, find_archive, members
from oneconvert.transfer.compression import decompressed, find_compression
from oneconvert.transfer.spool import Spool

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
    """A disk image in the workspace. ``extents`` are the files beside ``path`` that belong to it, for a split VMDK."""

    name: str
    path: Path
    found: Inspection
    extents: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class Kept:
    """A member that may be a disk, in a file of the workspace; ``found`` is its inspection or the refusal."""

    member: str
    path: Path
    found: Inspection | ImageRefusedError


@dataclass
class Contents:
    """What an archive turned out to hold."""

    descriptor: tuple[str, ovf.Descriptor] | None = None
    manifest: tuple[str, dict[str, ovf.Digest]] | None = None
    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)
    sets: dict[str, vmdk_set.VmdkSet] = field(default_factory=dict)


def receive(chunks: Iterable[bytes], name: str, wanted: str, directory: Path, unpack: bool, most: int) -> Arrival:
    """Bring the image in ``chunks`` into ``directory``.

    ``name`` is what messages call the source, ``wanted`` the number or file name of a disk (ONECONVERT_DISK, empty
    where there is one only). Without ``unpack`` the bytes are the image. What is compressed must not unpack to more
    than ``most`` bytes. Raises ImageRefusedError or TransferError.
    """
    head = b""
    if unpack:
        head, chunks = _unpacked(chunks, name, most)
    kind = find_archive(head)
    if kind is None:
        # The tables and the footer of an image may make it longer than its disk.
        spooled = _spool(bounded(chunks, most + most // 64 + ROOM, name), name, directory / "source")
        if isinstance(spooled, ImageRefusedError):
            raise spooled
        return _whole(name, directory / "source", spooled)
    LOG.info("%s is a %s archive", name, kind)
    contents = _read_archive(chunks, kind, name, directory, most)
    _verify(contents, name)
    return _choose(contents, name, wanted, directory)


def _unpacked(chunks: Iterable[bytes], name: str, most: int) -> tuple[bytes, Iterator[bytes]]:
    """Undo layers of compression; returns the first bytes of what is in them, and all of it."""
    for _ in range(MOST_LAYERS):
        head, chunks = _peek(chunks)
        if find_compression(head) is None:
            return head, chunks
        chunks = bounded(decompressed(chunks, name), most, name)
    raise ImageRefusedError(f"{name} is compressed more than {MOST_LAYERS - 1} times; publish it compressed once")


def _peek(chunks: Iterable[bytes]) -> tuple[bytes, Iterator[bytes]]:
    source = iter(chunks)
    first = b""
    for chunk in source:
        first += chunk
        if len(first) >= HEAD:
            break
    return first[:HEAD], itertools.chain((first,) if first else (), source)


def _spool(chunks: Iterable[bytes], name: str, path: Path, keep: bool = False) -> Inspection | ImageRefusedError:
    """Write ``chunks`` to ``path`` and inspect them; a refusal ends it, or with ``keep`` is only told."""
    inspector = StreamInspector(name)
    refusal: ImageRefusedError | None = None
    with Spool(path, name) as spool:
        for chunk in chunks:
            if refusal is None:
                try:
                    inspector.feed(chunk)
                except ImageRefusedError as error:
                    refusal = error
                    if not keep:
                        return refusal
            spool.write(chunk)
        spool.finish()
    try:
        return refusal or inspector.finish()
    except ImageRefusedError as error:
        return error


def _whole(name: str, path: Path, found: Inspection) -> Arrival:
    check_complete(path, found, name)
    return Arrival(name, path, found)


def _read_archive(chunks: Iterable[bytes], kind: str, name: str, directory: Path, most: int) -> Contents:
    contents = Contents()
    for number, member in enumerate(members(chunks, kind, name), 1):
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
            head, stream = _unpacked(stream, described, most)
            if vmdk_set.is_descriptor(head):
                contents.sets[member.path] = vmdk_set.read_set(_text(stream, described), described)
            else:
                path = directory / f"member-{number}"
                contents.kept[member.path] = Kept(member.path, path, _spool(stream, described, path, keep=True))
        for _ in stream:  # the rest of it, for its digest
            pass
        contents.digests[member.path] = {algorithm: each.hexdigest() for algorithm, each in running.items()}
    return contents


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
            kept.path.unlink()
    described = f"{chosen} in {name}"
    if chosen in contents.sets:
        return _assembled(contents, chosen, described, directory)
    kept = contents.kept[chosen]
    if isinstance(kept.found, ImageRefusedError):
        raise kept.found
    return _whole(described, kept.path, kept.found)


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
