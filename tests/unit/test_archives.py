"""What the archive readers promise: every dialect, one file after the other, and nothing that could lead elsewhere."""

from __future__ import annotations

import hashlib
import io
import random
import shutil
import stat
import struct
import subprocess
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import inflate64
import pytest

from oneconvert.errors import ImageRefusedError, TransferError
from oneconvert.transfer.archives import HEAD, PIECE, Member, find_archive, members

MIB = 1 << 20
NOISE = random.Random(5).randbytes(200_000)
FILES = {
    "appliance.ovf": b"<Envelope/>",
    "empty": b"",
    "sub dir/disk-ä.vmdk": NOISE + bytes(70_000),
    "exact": b"x" * 1024,
    "._appliance.ovf": b"mac",
}
SEVEN_ZIP = shutil.which("7zz") or shutil.which("7z")
STEPS = (1, 7, 511, 512, 513, 65536, MIB)


def chunks(data: bytes, step: int = MIB) -> Iterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]
    yield b""


def read(archive: bytes, step: int = MIB) -> dict[str, bytes]:
    kind = find_archive(archive[:HEAD])
    assert kind is not None
    return {member.name: b"".join(member) for member in members(chunks(archive, step), kind, "app.ova")}


def refused(archive: bytes, kind: str | None = None, steps: Iterable[int] = (MIB, 100)) -> str:
    """The sentence with which the archive is refused, whether its members are read or skipped."""
    kind = kind or find_archive(archive[:HEAD])
    assert kind is not None
    sentences = set()
    for step in steps:
        for reading in (True, False):
            with pytest.raises(ImageRefusedError) as caught:
                for member in members(chunks(archive, step), kind, "app.ova"):
                    if reading:
                        b"".join(member)
            sentences.add(caught.value.sentence)
    assert len(sentences) == 1
    sentence = sentences.pop()
    assert sentence.startswith("app.ova is ")
    assert sentence.isascii() and sentence.isprintable() and len(sentence) < 320
    return sentence


# ------------------------------------------------------------------------------------------------------------- tar


def tarred(*entries: tuple[str, bytes] | tarfile.TarInfo, dialect: int = tarfile.GNU_FORMAT, **more: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dialect, **more) as archive:  # type: ignore[call-overload]
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry, io.BytesIO(bytes(max(0, entry.size))))
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()


def header(name: bytes = b"disk", size: bytes | int = 0, kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    """One header block by hand, with a valid checksum."""
    digits = size if isinstance(size, bytes) else b"%011o\0" % size
    numbers = b"0000644\0" + b"0000000\0" * 2 + digits.ljust(12, b"\0") + b"00000000000\0"
    block = (name.ljust(100, b"\0") + numbers + b" " * 8 + kind + bytes(100) + magic).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    """An extended header of "key=value" records."""
    lines = []
    for record in records:
        length = len(record) + 3
        while len(b"%d %s\n" % (length, record)) != length:
            length += 1
        lines.append(b"%d %s\n" % (length, record))
    data = b"".join(lines)
    return header(b"PaxHeader", len(data), kind) + padded(data)


END = bytes(1024)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tree")
    for name, data in FILES.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(data)
    return directory


@pytest.mark.parametrize("dialect", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_the_tar_command_in_every_dialect(tree: Path, dialect: str) -> None:
    archive = subprocess.run(
        ["tar", f"--format={dialect}", "-C", tree, "-cf", "-", "."], capture_output=True, check=True
    ).stdout
    found = read(archive)
    assert {name.removeprefix("./"): data for name, data in found.items()} == FILES


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("step", STEPS)
def test_a_tar_in_chunks_of_any_size(dialect: int, step: int) -> None:
    archive = tarred(*FILES.items(), dialect=dialect)
    assert read(archive, step) == FILES


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_global_headers(dialect: int) -> None:
    name = "ä" * 120 + "/" + "b" * 200
    headers = {"pax_headers": {"comment": "c" * 3000}} if dialect == tarfile.PAX_FORMAT else {}
    assert read(tarred((name, b"long"), ("short", b"s"), dialect=dialect, **headers)) == {name: b"long", "short": b"s"}


def test_a_name_split_between_the_fields_of_ustar() -> None:
    name = "d" * 120 + "/" + "f" * 90
    assert read(tarred((name, b"x"), dialect=tarfile.USTAR_FORMAT)) == {name: b"x"}


def test_a_tar_without_magic_is_known_by_its_checksum() -> None:
    archive = header(b"disk", 3, b"\0", magic=bytes(8)) + padded(b"abc") + END
    assert read(archive) == {"disk": b"abc"}
    assert find_archive(archive[:100] + b"1" + archive[101:HEAD]) is None


@pytest.mark.parametrize(
    "head", [b"", b"PK", bytes(512), b"ustar", NOISE[:512], bytes(510) + b"\x55\xaa", b"QFI\xfb" + bytes(508)]
)
def test_what_is_no_archive(head: bytes) -> None:
    assert find_archive(head) is None


def test_members_tell_their_size_and_place() -> None:
    archive = tarred(*FILES.items())
    for member in members(chunks(archive), "tar", "app.ova"):
        assert member.size == len(FILES[member.name])
        assert member.offset is not None
        assert archive[member.offset : member.offset + member.size] == FILES[member.name]


def test_size_and_path_of_a_pax_header_win() -> None:
    archive = pax(b"path=new name", b"size=3", b"mtime=1.5") + header(b"old", 0) + padded(b"abc")
    archive += pax(b"path=") + header(b"kept", 1) + padded(b"k") + END
    assert read(archive) == {"new name": b"abc", "kept": b"k"}


def test_a_member_of_more_than_8_gib_is_not_held() -> None:
    # Its size does not fit in octal digits; only the beginning of it is made.
    size = 9 << 30
    archive = header(b"disk", b"\x80" + size.to_bytes(11, "big"))

    def endless() -> Iterator[bytes]:
        yield archive
        for _ in range(30):
            yield bytes(MIB)

    member = next(members(endless(), "tar", "app.ova"))
    assert member.size == size
    with pytest.raises(ImageRefusedError, match=r"app\.ova is truncated"):
        list(member)


@pytest.mark.parametrize("partly", [0, 1, 1000])
def test_members_may_be_read_in_part(partly: int) -> None:
    names = []
    for member in members(chunks(tarred(*FILES.items()), 100), "tar", "app.ova"):
        names.append(member.name)
        for _ in zip(range(partly), member):
            pass
    assert names == list(FILES)


def test_a_member_cannot_be_read_when_the_archive_has_gone_on() -> None:
    everything = list(members(chunks(tarred(*FILES.items())), "tar", "app.ova"))
    with pytest.raises(RuntimeError):
        list(everything[0])


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_the_stream_is_read_to_its_end(kind: str) -> None:
    """What makes the chunks verifies them after the last one: its error must come out."""

    def verified() -> Iterator[bytes]:
        yield from chunks(tarred(*FILES.items()) if kind == "tar" else zipped())
        yield bytes(3 * MIB)
        raise TransferError("the checksum is wrong")

    with pytest.raises(TransferError):
        for _ in members(verified(), kind, "app.ova"):
            pass


LINKS = {
    tarfile.SYMTYPE: "is a symbolic link",
    tarfile.LNKTYPE: "is a hard link",
    tarfile.CHRTYPE: "is a character device",
    tarfile.BLKTYPE: "is a block device",
    tarfile.FIFOTYPE: "is a FIFO",
    tarfile.GNUTYPE_SPARSE: "is a sparse file",
    b"V": "of the unknown type 'V'",
    b"M": "of the unknown type 'M'",
    b"\xff": r"of the unknown type '\xff'",
}


@pytest.mark.parametrize("kind", LINKS, ids=lambda kind: repr(kind))
@pytest.mark.parametrize("size", [0, 512])
def test_anything_but_files_and_directories_is_refused(kind: bytes, size: int) -> None:
    archive = tarred(("ok", b"ok"))[:1024] + header(b"disk.vmdk", size, kind) + bytes(size) + END
    sentence = refused(archive)
    assert "'disk.vmdk'" in sentence
    assert LINKS[kind] in sentence


BAD_NAMES = {
    "/etc/passwd": "absolute",
    "//x": "absolute",
    "../x": "leads out",
    "a/../../x": "leads out",
    "..": "leads out",
    "a\\b": "backslash",
    "C:\\x": "backslash",
    "a\nb": "control",
    "a\x7fb": "control",
    "a\x1b[2Jb": "control",
    "a\u0085b": "control",
    "a\u2028b": "control",
    "x" * 513: "more than 512 bytes",
    "ä" * 257: "more than 512 bytes",
}


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name)[:20])
@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_lead_elsewhere_are_refused_in_a_tar(name: str, dialect: int) -> None:
    archive = tarred(("ok", b"ok"), (name, b"x"), dialect=dialect)
    assert BAD_NAMES[name] in refused(archive)


@pytest.mark.parametrize("name", ["a/.", "./", "b/"])
def test_a_file_needs_the_name_of_a_file(name: str) -> None:
    assert "not that of a file" in refused(pax(b"path=" + name.encode()) + header(b"x", 1) + padded(b"x") + END)


@pytest.mark.parametrize("name", [b"path=a\0b", b"path=a\x01b"])
def test_odd_bytes_in_extended_names(name: bytes) -> None:
    assert "control character" in refused(pax(name) + header() + END)
    name = name.removeprefix(b"path=") + b"\0"
    assert "control character" in refused(header(b"L", len(name), b"L") + padded(name) + header() + END)


def test_a_directory_is_ignored_but_not_its_name() -> None:
    assert read(header(b"dir/", 0, b"5") + header(b"./", 0, b"5") + header(b"f", 0) + END) == {"f": b""}
    assert "leads out" in refused(header(b"../dir/", 0, b"5") + END)
    assert "directory with content" in refused(header(b"dir", 512, b"5") + header(b"f") + END)


@pytest.mark.parametrize("twin", ["disk", "./disk", ".//disk", "././disk"])
def test_two_members_of_one_name_are_refused(twin: str) -> None:
    assert "more than once" in refused(tarred(("disk", b"1"), (twin, b"2")))
    assert "more than once" in refused(zipped({"disk": b"1", twin: b"2"} if twin != "disk" else {}, twins=twin))


def test_names_that_are_no_utf8_come_through() -> None:
    member = next(members(chunks(header(b"d\xefsk") + END), "tar", "app.ova"))
    assert (member.name, member.path) == ("d\udcefsk", "d\udcefsk")
    assert r"'..\udcef'" not in refused(header(b"../\xef") + END)


def test_the_path_of_a_member_is_its_plain_name() -> None:
    assert [m.path for m in members(chunks(tarred(("./a//./b", b""))), "tar", "x")] == ["a/b"]


def test_too_many_members() -> None:
    thousand = b"".join(header(b"f%d" % number) for number in range(1000))
    assert len(read(thousand + END)) == 1000
    assert "more than 1000 members" in refused(thousand + header(b"one more") + END)
    assert "more than 1000 members" in refused(header(b"dir/", 0, b"5") * 1001 + END)
    assert "more than 1000 members" in refused(zipped({f"f{number}": b"" for number in range(1001)}))


def test_a_tar_cut_anywhere_is_truncated() -> None:
    archive = tarred(*FILES.items(), dialect=tarfile.PAX_FORMAT)
    whole = len(archive.rstrip(b"\0"))
    whole += -whole % 512
    places = {1, 511, 512, 513, 1024, whole - 1, whole, whole + 1, whole + 511, *range(600, whole, 4999)}
    for length in places:
        assert "is truncated" in refused(archive[:length], "tar", steps=(MIB,)), length
    assert read(archive[: whole + 512]) == FILES


def test_bad_headers() -> None:
    archive = bytearray(tarred(("a", b"a"), ("b", b"b")))
    archive[1024 + 5] ^= 1
    assert "no valid header at byte 1024" in refused(bytes(archive))
    assert "no valid header" in refused(header(b"x", b"99999999999") + END, "tar")
    assert "no valid header" in refused(header(b"a") + NOISE[:512] + END)


@pytest.mark.parametrize(
    "size", [b"\xff" * 12, b"\xff" + bytes(11), b"\x80" + b"\xff" * 11, b"-1", b"\x80\x40" + bytes(10)]
)
def test_absurd_sizes(size: bytes) -> None:
    assert "claims a size" in refused(header(b"disk", size) + END)
    assert "an extended header of" in refused(header(b"x", size, b"x") + END)
    assert "an extended header of" in refused(header(b"L", size, b"L") + END)


@pytest.mark.parametrize(
    "records",
    [
        b"",
        b"size=-1",
        b"size=1e3",
        b"size=" + b"9" * 5000,
        b"size=0x10",
        b"size= 1",
        "size=٣".encode(),
        b"size=" + b"9" * 19,
    ],
)
def test_sizes_in_pax_headers(records: bytes) -> None:
    if records:
        assert "size" in refused(pax(records) + header() + END)
    else:
        assert read(pax() + header() + END) == {"disk": b""}


@pytest.mark.parametrize(
    "data",
    [
        b"9 a=b\n",
        b"0 a=b\n",
        b"x",
        b"6 a=b",
        b"5 =b\n",
        b"6 a=bb\n",
        b"99999999 a=b\n",
        b"-6 a=b\n",
        b"1" * 5000,
        b"7\na=bc\n",
    ],
)
def test_pax_records_that_make_no_sense(data: bytes) -> None:
    assert "cannot be read" in refused(header(b"x", len(data), b"x") + padded(data) + header() + END)


@pytest.mark.parametrize("record", [b"GNU.sparse.major=1", b"GNU.sparse.map=0,1", b"SCHILY.realsize=5"])
def test_sparse_members_of_pax_are_refused(record: bytes) -> None:
    assert "sparse" in refused(pax(record) + header() + END)


def test_sparse_members_of_the_tar_command_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as disk:
        disk.truncate(4 * MIB)
        disk.write(b"x")
    for dialect in ("gnu", "posix"):
        command = ["tar", "-S", f"--format={dialect}", "-C", tmp_path, "-cf", "-", "disk"]
        assert "--sparse" in refused(subprocess.run(command, capture_output=True, check=True).stdout)


def test_a_global_header_must_not_name_members() -> None:
    assert read(pax(b"comment=x", kind=b"g") + header() + END) == {"disk": b""}
    for record in (b"path=x", b"size=0"):
        assert "global header" in refused(pax(record, kind=b"g") + header() + END)


def test_extended_headers_are_bounded() -> None:
    """A header that asks for all memory, many of them, and numbers that older parsers take quadratic time for."""
    assert "extended header of 2097152 bytes" in refused(header(b"x", 2 * MIB, b"x") + bytes(2 * MIB) + END)
    assert "more than 8 extended headers" in refused(pax(b"a=b") * 10_000 + header() + END)
    started = time.monotonic()
    assert "cannot be read" in refused(header(b"x", MIB, b"x") + b"1" * MIB + END)
    assert len(read(pax(*(b"a=b" for _ in range(100_000))) + header() + END)) == 1
    assert time.monotonic() - started < 2


def test_what_follows_the_end_of_a_tar() -> None:
    archive = tarred(("a", b"a"))
    assert read(archive + bytes(3 * MIB + 5)) == {"a": b"a"}
    assert "something follows" in refused(archive + bytes(MIB) + b"x")
    assert "something follows" in refused(archive + tarred(("b", b"b")))


# ------------------------------------------------------------------------------------------------------------- zip


class Pipe(io.RawIOBase):
    """Where zipfile writes as into a pipe: descriptors follow the members."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += data
        return len(data)


def zipped(
    files: dict[str, bytes] | None = None,
    method: int = zipfile.ZIP_DEFLATED,
    *,
    streamed: bool = False,
    zip64: bool = False,
    twins: str = "",
) -> bytes:
    pipe, buffer = Pipe(), io.BytesIO()
    with zipfile.ZipFile(pipe if streamed else buffer, "w", method) as archive:
        for name, data in (FILES if files is None else files).items():
            with archive.open(name, "w", force_zip64=zip64) as member:
                member.write(data)
        if twins and not files:
            archive.writestr("disk", b"1")
            with pytest.warns(UserWarning, match="Duplicate") if twins == "disk" else pytest.MonkeyPatch.context():
                archive.writestr(twins, b"2")
    return bytes(pipe.data) if streamed else buffer.getvalue()


def bent(archive: bytes, *patches: tuple[int, bytes]) -> bytes:
    result = bytearray(archive)
    for offset, data in patches:
        result[offset : offset + len(data)] = data
    return bytes(result)


VARIANTS = [
    (method, streamed, zip64)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
    for streamed in (False, True)
    for zip64 in (False, True)
    if not (streamed and method == zipfile.ZIP_STORED)
]


@pytest.mark.parametrize(("method", "streamed", "zip64"), VARIANTS)
@pytest.mark.parametrize("step", STEPS)
def test_a_zip_of_any_kind_in_chunks_of_any_size(method: int, streamed: bool, zip64: bool, step: int) -> None:
    assert read(zipped(method=method, streamed=streamed, zip64=zip64), step) == FILES


@pytest.mark.skipif(shutil.which("zip") is None, reason="needs the zip command")
def test_the_zip_command(tree: Path) -> None:
    for options in (["-r"], ["-r0"], ["-rfd"], ["-rfz"], ["-rZ", "bzip2"]):
        command = ["zip", "-q", *options, "-", "."]
        archive = subprocess.run(command, cwd=tree, capture_output=True, check=True).stdout
        if options == ["-r0"] and archive[6] & 8:
            assert "without its size" in refused(archive)
        else:
            assert read(archive) == FILES, options


def test_an_empty_zip_has_no_members() -> None:
    archive = zipped({})
    assert find_archive(archive) == "zip"
    assert read(archive) == {}


def test_members_of_a_zip_tell_what_they_can() -> None:
    archive = zipped(method=zipfile.ZIP_STORED)
    for member in members(chunks(archive), "zip", "app.zip"):
        assert member.offset is not None and member.size is not None
        assert archive[member.offset : member.offset + member.size] == FILES[member.name]
    assert {member.size for member in members(chunks(zipped(streamed=True)), "zip", "x")} == {None}
    assert {member.offset for member in members(chunks(zipped()), "zip", "x")} == {None}


def test_a_zip_may_be_padded_and_have_comments() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("a")
        info.comment = b"of the member"
        archive.writestr(info, b"a")
        archive.mkdir("dir") if hasattr(archive, "mkdir") else archive.writestr("dir/", b"")
        archive.comment = b"of the archive"
    assert read(buffer.getvalue() + bytes(2 * MIB)) == {"a": b"a"}
    assert "something follows" in refused(buffer.getvalue() + b"\0x")


@pytest.mark.parametrize("name", [name for name in BAD_NAMES if "\\" not in name], ids=lambda name: ascii(name)[:20])
def test_names_that_lead_elsewhere_are_refused_in_a_zip(name: str) -> None:
    assert BAD_NAMES[name] in refused(zipped({"ok": b"ok", name: b"x"}))


def test_backslash_and_nul_in_a_zip() -> None:
    archive = zipped({"..!etc": b"x"})
    for odd, reason in ((b"\\", "backslash"), (b"\0", "control")):
        assert reason in refused(archive.replace(b"..!etc", b".." + odd + b"etc"))


def test_names_of_the_first_pkzip() -> None:
    assert list(read(zipped({"d_sk": b""}).replace(b"d_sk", b"d\x84sk"))) == ["däsk"]


def test_a_cut_zip_is_truncated() -> None:
    for archive in (zipped(), zipped(streamed=True), zipped(zip64=True), zipped(method=0), zipped(method=12)):
        for length in {3, 4, 29, 30, 40, len(archive) - 1, len(archive) - 22, *range(50, len(archive), 997)}:
            sentence = refused(archive[:length], "zip", steps=(MIB,))
            assert "is truncated" in sentence, (length, sentence)


def test_links_and_devices_in_a_zip_are_refused_in_the_end() -> None:
    for mode in (stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            info = zipfile.ZipInfo("disk.qcow2")
            info.external_attr = (mode | 0o777) << 16
            archive.writestr(info, b"/etc/shadow")
        assert "'disk.qcow2' is a link or a device" in refused(buffer.getvalue())


@pytest.mark.parametrize("flag", [1, 1 | 1 << 6, 1 << 13])
def test_encrypted_members(flag: int) -> None:
    archive = bent(zipped(), (6, struct.pack("<H", flag)))
    assert "'appliance.ovf' is encrypted" in refused(archive)


@pytest.mark.parametrize(("method", "word"), [(14, "LZMA"), (93, "Zstandard"), (95, "XZ"), (1, "method 1")])
def test_other_methods(method: int, word: str) -> None:
    assert f"compressed with {word}" in refused(bent(zipped(), (8, struct.pack("<H", method))))


def test_stored_members_of_unknown_size() -> None:
    archive = zipped({"disk": b"abc"}, zipfile.ZIP_STORED, streamed=True)
    assert "stored without its size" in refused(archive)
    # An empty one ends where it begins.
    assert read(zipped({"a": b"", "b": b""}, zipfile.ZIP_STORED, streamed=True)) == {"a": b"", "b": b""}


def entry(name: bytes, data: bytes, signature: bytes, wide: bool, packed: bytes | None = None) -> bytes:
    """A streamed member by hand, with one of the four forms of a data descriptor."""
    raw = zlib.compress(data)[2:-4] if packed is None else packed
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 8, 8, 0, 0, 0, 0, 0, len(name), 0)
    numbers = struct.pack("<IQQ" if wide else "<III", zlib.crc32(data), len(raw), len(data))
    return local + name + raw + signature + numbers


def directory(name: bytes, data: bytes, packed: int, offset: int, start: int) -> bytes:
    fields = (20, 20, 8, 8, 0, 0, zlib.crc32(data), packed, len(data), len(name), 0, 0, 0, 0, 0, offset)
    central = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", *fields) + name
    return central + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(central), start, 0)


@pytest.mark.parametrize("signature", [b"PK\7\x08", b""])
@pytest.mark.parametrize("wide", [False, True])
def test_every_form_of_data_descriptor(signature: bytes, wide: bool) -> None:
    local = entry(b"disk", NOISE, signature, wide)
    archive = local + directory(b"disk", NOISE, len(zlib.compress(NOISE)) - 6, 0, len(local))
    for step in (1, 1000, MIB):
        assert read(archive, step) == {"disk": NOISE}
    wrong = entry(b"disk", NOISE, signature, wide, zlib.compress(NOISE[:-1])[2:-4])
    assert "has not the size and checksum" in refused(wrong + archive[len(local) :])


def deflate64(data: bytes) -> bytes:
    compressor = inflate64.Deflater()
    return bytes(compressor.deflate(data) + compressor.flush())


def zipped64(data: bytes, packed: bytes, claimed: int | None = None, flags: int = 0) -> bytes:
    """An archive of one member, "disk", whose compressed data is ``packed``, of ``claimed`` bytes."""
    length = len(packed) if claimed is None else claimed
    numbers = struct.pack("<III", zlib.crc32(data), length, len(data))
    local = struct.pack("<4sHHHI", b"PK\3\4", 21, flags, 9, 0) + numbers + struct.pack("<HH", 4, 0) + b"disk" + packed
    central = struct.pack("<4sHHHHI", b"PK\1\2", 21, 21, flags, 9, 0) + numbers
    central += struct.pack("<HHHHHII", 4, 0, 0, 0, 0, 0, 0) + b"disk"
    return local + central + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)


@pytest.mark.skipif(SEVEN_ZIP is None, reason="needs 7-Zip")
@pytest.mark.parametrize("step", STEPS)
def test_deflate64_as_7_zip_makes_it(tmp_path: Path, step: int) -> None:
    """Windows takes this method for files of more than 2 GiB."""
    assert SEVEN_ZIP is not None
    files = {"disk": NOISE + bytes(300_000) + NOISE, "empty": b"", "text": b"again and again " * 20_000}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = [SEVEN_ZIP, "a", "-tzip", "-mm=Deflate64", "disk.zip", *files]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    archive = (tmp_path / "disk.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "disk.zip") as listed:
        assert 9 in {each.compress_type for each in listed.infolist()}
    assert read(archive, step) == files


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("content", [b"", b"x", NOISE, NOISE + bytes(5 * MIB) + NOISE], ids=len)
def test_deflate64_in_chunks_of_any_size(content: bytes, step: int) -> None:
    archive = zipped64(content, deflate64(content))
    assert read(archive, max(step, len(archive) // 1000)) == {"disk": content}


def test_damage_in_deflate64() -> None:
    content = NOISE + bytes(100_000)
    packed = deflate64(content)
    wrong = {
        "more behind its end": packed + b"more",
        "one byte behind its end": packed + b"\0",
        "no end": packed[:-1],
        "no beginning": packed[500:],
        "another content": deflate64(NOISE),
        "nothing": b"",
        "garbage": b"\xff" * 5000,
    }
    for what, data in wrong.items():
        assert "damaged" in refused(zipped64(content, data)), what
    archive = zipped64(content, packed)
    for length in range(40, len(archive) - 1, 997):
        assert "truncated" in refused(archive[:length])


def test_deflate64_behind_which_its_size_is_told() -> None:
    """A header may say that a descriptor follows and have the sizes all the same."""
    packed = deflate64(NOISE)
    descriptor = b"PK\7\x08" + struct.pack("<III", zlib.crc32(NOISE), len(packed), len(NOISE))
    archive = zipped64(NOISE, packed, flags=8)
    at = archive.index(b"PK\1\2")
    end = archive.index(b"PK\5\6")
    directory_start = struct.pack("<I", at + len(descriptor))
    assert read(bent(archive[:at] + descriptor + archive[at:], (end + len(descriptor) + 16, directory_start))) == {
        "disk": NOISE
    }
    assert "Deflate64 without its size" in refused(zipped64(NOISE, packed, 0, flags=8))


def test_memory_is_bounded_for_deflate64() -> None:
    """Neither a bomb nor a long member of noise is held."""
    bomb, long = zipped64(bytes(96 * MIB), deflate64(bytes(96 * MIB))), random.Random(4).randbytes(48 * MIB)
    archives = (bomb, 96 * MIB), (zipped64(long, deflate64(long)), len(long))
    del long
    for archive, size in archives:
        tracemalloc.start()
        came = sum(len(piece) for member in members(chunks(archive), "zip", "bomb.zip") for piece in member)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert came == size
        assert peak < 40 * MIB


def test_a_zip_bomb_ends_where_its_header_says() -> None:
    """A member that unpacks to more than it claims is refused before more of it comes out."""
    archive = zipped({"disk": bytes(64 * MIB)})
    assert archive[22:26] == struct.pack("<I", 64 * MIB)
    came = 0
    with pytest.raises(ImageRefusedError, match="has not the size"):
        for member in members(chunks(bent(archive, (22, struct.pack("<I", 2 * MIB)))), "zip", "bomb.zip"):
            for piece in member:
                came += len(piece)
    assert came <= 2 * MIB


def test_damage_in_a_zip() -> None:
    archive = zipped(method=zipfile.ZIP_STORED)
    data = archive.index(NOISE)
    assert "has not the size and checksum" in refused(bent(archive, (data + 5, b"\0\1\2\3")))
    packed = zipped({"disk": NOISE * 3})
    assert "'disk'" in refused(bent(packed, (40, b"\xff" * 64)))
    assert "neither" not in refused(bent(archive, (14, b"\0\0\0\0")))
    assert "is neither a member" in refused(archive[: archive.index(b"PK\1\2")] + bytes(100))


def test_the_directory_of_a_zip_must_confirm_its_members() -> None:
    archive = zipped({"a": b"1", "b": b"2"})
    first = archive.index(b"PK\1\2")
    second = archive.index(b"PK\1\2", first + 1)
    end = archive.index(b"PK\5\6")
    # A member that only this kind of reader sees, as after "zip -d" or in an archive that was appended to.
    assert "'a' is not in the directory" in refused(archive[:first] + archive[second:])
    # One that only other readers see.
    assert "something else about 'b'" in refused(archive[:end] + archive[second:end] + archive[end:])
    for offset in (first + 16, first + 20, first + 24, first + 42, first + 46):
        assert "the directory of the zip archive says" in refused(bent(archive, (offset, b"\x77")))
    assert "does not end as it should" in refused(bent(archive, (end + 10, b"\x09")))
    assert "does not end as it should" in refused(bent(archive, (end, b"XXXX")))


def test_absurd_sizes_in_a_zip() -> None:
    archive = zipped({"disk": b"x"}, zip64=True)
    place = archive.index(struct.pack("<HH", 1, 16)) + 4
    # Some versions of zipfile write real sizes in front, next to the field.
    assert "claims sizes" in refused(bent(archive, (18, b"\xff" * 8), (place, b"\xff" * 8)))


# ----------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_memory_does_not_grow_with_the_archive(kind: str) -> None:
    size = 96 * MIB
    if kind == "tar":
        parts: Iterable[bytes] = (header(b"disk", size), *[bytes(MIB)] * 96, END)
    else:
        parts = list(chunks(zipped({"disk": bytes(size)})))
    digest, largest = hashlib.sha256(), 0
    tracemalloc.start()
    for member in members(iter(parts), kind, "app.ova"):
        for piece in member:
            digest.update(piece)
            largest = max(largest, len(piece))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert digest.digest() == hashlib.sha256(bytes(size)).digest()
    assert largest <= PIECE
    assert peak < 8 * MIB


def test_one_huge_chunk_comes_out_in_pieces() -> None:
    archive = tarred(("disk", bytes(5 * MIB)))
    pieces = [len(piece) for member in members([archive], "tar", "x") for piece in member]
    assert sum(pieces) == 5 * MIB and max(pieces) <= PIECE
    assert isinstance(next(members([archive], "tar", "x")), Member)


def test_any_damage_ends_in_one_kind_of_error() -> None:
    """Bits flipped at random: what is not refused has the content that it had, or another name."""
    dice = random.Random(11)
    small = {"a.ovf": b"<Envelope/>", "disk.vmdk": NOISE[:3000]}
    originals = [
        tarred(*small.items(), dialect=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}),
        zipped(small),
        zipped(small, streamed=True, zip64=True),
        zipped(small, zipfile.ZIP_BZIP2),
    ]
    for archive in originals:
        kind = find_archive(archive[:HEAD])
        assert kind is not None
        for _ in range(400):
            damaged = bytearray(archive[: dice.choice((len(archive), dice.randrange(len(archive))))])
            for _ in range(dice.randrange(1, 4)):
                if damaged:
                    damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            try:
                found = [b"".join(member) for member in members(chunks(bytes(damaged), 700), kind, "app.ova")]
            except ImageRefusedError:
                continue
            assert kind == "tar" or found == list(small.values())
