"""The disk image in an archive: a tar, a zip, an appliance (OVA).

The members are looked at once, as they come. Nothing is extracted: only what may be a disk is kept, in files of the
workspace that have names of ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from oneconvert.actions.landing import Announcement, Arrival, Head, Landed, NotWhileArrivingError, Wanted, arrived, land
from oneconvert.actions.opening import Opened, unpacked
from oneconvert.errors import ImageRefusedError, NotAnImageError, TransferError
from oneconvert.images import ovf, vmdk_set
from oneconvert.images.format import ImageFormat
from oneconvert.images.inspect import Inspection
from oneconvert.jobs.threads import pool
from oneconvert.transfer.archives import Member, members

LARGEST_TEXT = 1024 * 1024
# Members of appliances that are never a disk: descriptions, signatures, the memory of a firmware, CD-ROMs.
NO_DISKS = (
    ".cert", ".iso", ".json", ".log", ".md", ".md5", ".nvram", ".pdf", ".sha1", ".sha256", ".sha512", ".sig", ".txt",
    ".vmsd", ".vmx", ".vmxf", ".xml",
)  # fmt: skip


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


def receive_disk(
    opened: Opened,
    kind: str,
    name: str,
    wanted: Wanted,
    directory: Path,
    announce: Callable[[Head], None],
) -> Arrival:
    """Bring the disk that is wanted, or the only one, into ``directory``; the parameters are those of ``receive``.

    Raises ImageRefusedError, TransferError or NotWhileArrivingError.
    """
    with pool("digest") as threads:
        contents = _read_archive(opened, kind, name, directory, wanted, announce, threads)
    _verify(contents, name)
    return _choose(contents, name, wanted.disk, directory)


def _read_archive(
    opened: Opened,
    kind: str,
    name: str,
    directory: Path,
    wanted: Wanted,
    announce: Callable[[Head], None],
    threads: Executor,
) -> Contents:
    contents = Contents()
    announced = False
    for number, member in enumerate(members(opened.chunks, kind, name), 1):
        suffix = Path(member.path.lower()).suffix
        algorithms = _algorithms(contents, member, wanted)
        running = {algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm in algorithms}
        stream = _digested(member, running, threads)
        described = f"{member.path} in {name}"
        if suffix == ".ovf":
            if contents.descriptor:
                raise ImageRefusedError(f"{name} holds more than one .ovf file; publish each appliance by itself")
            contents.descriptor = member.path, ovf.read_descriptor(_text(stream, described), described)
        elif suffix == ".mf":
            if contents.manifest:
                raise ImageRefusedError(f"{name} holds more than one manifest; publish each appliance by itself")
            contents.manifest = member.path, ovf.read_manifest(_text(stream, described), described)
            _check_digests_were_computed(contents, name)
        elif not _never_a_disk(member.path, suffix):
            position = None if None in (opened.position, member.offset) else member.offset
            inner = unpacked(Opened(b"", stream, member.size, position), described, wanted.most)
            stream = inner.chunks
            if vmdk_set.is_descriptor(inner.head):
                contents.sets[member.path] = vmdk_set.read_set(_text(stream, described), described)
            else:
                certain = _is_wanted(member.path, contents, wanted.disk)
                announcement = None
                if certain is not False and not announced:
                    announcement, announced = Announcement(announce, wanted.converts, bool(certain)), True
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


def _algorithms(contents: Contents, member: Member, wanted: Wanted) -> Iterable[str]:
    """The digests that a member needs: those of the manifest, or while that has not come, those that it may have."""
    if contents.manifest:
        return {digest.algorithm for digest in contents.manifest[1].values()}
    is_small = member.size is not None and member.size <= LARGEST_TEXT
    return ovf.ALGORITHMS if is_small else wanted.algorithms


def _check_digests_were_computed(contents: Contents, name: str) -> None:
    """Raise NotWhileArrivingError when a member has passed by without the digest that the manifest, now here, has."""
    assert contents.manifest
    manifest, expected = contents.manifest
    for file, digest in expected.items():
        if digest.algorithm not in contents.digests.get(_beside(manifest, file), {digest.algorithm}):
            raise NotWhileArrivingError(f"{name} has {file!a} before the manifest with its {digest.algorithm}")


def _never_a_disk(path: str, suffix: str) -> bool:
    # macOS keeps its attributes of a file in a file beside it.
    return suffix in NO_DISKS or path.startswith("__MACOSX/") or Path(path).name.startswith("._")


def _digested(member: Member, running: dict[str, hashlib._Hash], threads: Executor) -> Iterator[bytes]:
    """Pass the bytes of a member on while its digests are computed beside."""
    pending: list[Future[None]] = []
    for chunk in member:
        _finish(pending)
        pending = [threads.submit(each.update, chunk) for each in running.values()]
        yield chunk
    _finish(pending)


def _finish(pending: list[Future[None]]) -> None:
    for each in pending:
        each.result()


def _text(chunks: Iterable[bytes], described: str) -> bytes:
    text = b""
    for chunk in chunks:
        text += chunk
        if len(text) > LARGEST_TEXT:
            raise ImageRefusedError(
                f"{described} has more than {LARGEST_TEXT} bytes, too many for a text; export it again"
            )
    return text


def _verify(contents: Contents, name: str) -> None:
    """Hold the members against the manifest, which names files beside itself."""
    if contents.manifest:
        manifest, expected = contents.manifest
        for file, digest in expected.items():
            actual = contents.digests.get(_beside(manifest, file))
            if actual is None:
                raise TransferError(
                    f"{name} is incomplete: its manifest names {file!a}, which is not in it; publish it whole"
                )
            if actual[digest.algorithm] != digest.digest:
                raise TransferError(
                    f"{name} is damaged: {file!a} does not have the digest that its manifest says; export it again"
                )


def _choose(contents: Contents, name: str, wanted: str, directory: Path) -> Arrival:
    """The disk that is wanted, or the only one."""
    disks = _disks(contents, name)
    if not disks:
        raise ImageRefusedError(f"{name} is an archive without a disk image in it; publish the image itself")
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
    return arrived(described, kept.landed)


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
    candidates = [path for path in (*contents.sets, *contents.kept) if path not in extents]
    # A Vagrantfile, a README: no disks, but if there is nothing else, why the only one is none says more.
    strangers = {path for path, each in contents.kept.items() if isinstance(each.landed, NotAnImageError)}
    return candidates if len(candidates) == 1 else [path for path in candidates if path not in strangers]


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
