"""What check_complete promises: no image whose tables point beyond its end, and no whole image refused."""

from __future__ import annotations

import random
import struct
import time
import uuid
import zlib
from pathlib import Path

import pytest

from oneconvert.errors import ImageRefusedError
from oneconvert.images.extents import check_complete
from oneconvert.zstd import ZstdDecompressor
from rig import crafted as images
from rig.crafted import MIB, accept, be32, be64, le32, le64, patched

FROM_THE_END = (1, 12, 100, 511, 512, 513, 700, 1024, 1536, 2000, 4096, 13_000, 65_535, 65_536, 65_537, 300_000)
FRACTIONS = (0.02, 0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95)

SNAPSHOT = "qcow2-snapshot"
BITMAP = "qcow2-bitmap"
VMWARE_STREAM = "vmdk-vmware-stream"
WHOLE = (*images.KINDS, SNAPSHOT, BITMAP, VMWARE_STREAM)
DETECTABLE = [kind for kind in WHOLE if not kind.startswith("vhd-fixed")]
"""A fixed VHD without its end is a raw disk; only the length that the source announces can tell."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One image of every kind."""
    directory = tmp_path_factory.mktemp("whole")
    raw = directory / "disk.raw"
    raw.write_bytes(images.disk())
    made = {kind: images.make(directory, kind, raw) for kind in images.KINDS}
    made[SNAPSHOT] = directory / f"{SNAPSHOT}.img"
    made[SNAPSHOT].write_bytes(made["qcow2"].read_bytes())
    images.qemu_img("snapshot", "-c", "before", made[SNAPSHOT])
    made[BITMAP] = directory / f"{BITMAP}.img"
    made[BITMAP].write_bytes(made["qcow2"].read_bytes())
    images.qemu_img("bitmap", "--add", made[BITMAP], "changes")
    made[VMWARE_STREAM] = directory / f"{VMWARE_STREAM}.img"
    made[VMWARE_STREAM].write_bytes(images.vmware_stream(images.disk()))
    return made


def refusal(image: bytes, tmp_path: Path) -> str:
    """The sentence with which an image is refused that the inspector accepts."""
    path = tmp_path / "bent.img"
    path.write_bytes(image)
    with pytest.raises(ImageRefusedError) as caught:
        accept(path)
    assert caught.value.sentence.startswith("bent.img ")
    return caught.value.sentence


def cuts(size: int) -> list[int]:
    """Lengths to which an image of ``size`` bytes is cut."""
    lengths = {size - cut for cut in FROM_THE_END} | {int(size * fraction) for fraction in FRACTIONS}
    return sorted(length for length in lengths if 0 < length < size)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_image_is_accepted_and_holds_the_disk(kind: str, whole: dict[str, Path]) -> None:
    inspection = accept(whole[kind])
    content = images.content_of(whole[kind], inspection.format.value)
    assert len(content) == inspection.virtual_size
    assert content.rstrip(b"\0") == images.disk().rstrip(b"\0")


@pytest.mark.parametrize("kind", DETECTABLE)
def test_a_truncated_image_is_refused_or_has_lost_nothing(kind: str, whole: dict[str, Path], tmp_path: Path) -> None:
    image = whole[kind].read_bytes()
    expected = images.content_of(whole[kind], accept(whole[kind]).format.value)
    refused = 0
    for length in cuts(len(image)):
        path = tmp_path / "cut.img"
        path.write_bytes(image[:length])
        try:
            inspection = accept(path)
        except ImageRefusedError as error:
            refused += 1
            assert "truncated" in error.sentence or "damaged" in error.sentence
        else:
            assert images.content_of(path, inspection.format.value) == expected, length
    # The end of the last block may lie behind the end of the disk, but never most of the file.
    assert refused >= 5


def test_the_sentence_tells_both_lengths(whole: dict[str, Path], tmp_path: Path) -> None:
    image = whole["qcow2"].read_bytes()
    sentence = refusal(image[: 2 * MIB], tmp_path)
    assert "is truncated: it needs " in sentence
    assert f"{2 * MIB} are there" in sentence


@pytest.mark.parametrize("kind", WHOLE)
def test_an_image_with_something_behind_it_is_judged_by_its_tables(
    kind: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "longer.img"
    path.write_bytes(whole[kind].read_bytes() + bytes(512))
    ends_with_a_footer = kind.startswith("vhd-dynamic") or kind == VMWARE_STREAM
    if ends_with_a_footer:
        with pytest.raises(ImageRefusedError, match="footer"):
            accept(path)
    elif kind.startswith("vhd-fixed"):
        assert accept(path).format.value == "raw"
    else:
        assert accept(path) == accept(whole[kind])


def test_a_last_compressed_sector_without_padding_is_accepted(whole: dict[str, Path], tmp_path: Path) -> None:
    """Not every program fills up the last sector of a compressed cluster, and nothing is lost by that."""
    for kind in ("qcow2-zlib", "qcow2-zstd"):
        image = bytearray(whole[kind].read_bytes())
        offset, sectors, position = last_compressed_cluster(bytes(image))
        length = sectors * 512 - offset % 512
        cluster = bytes(image[offset : offset + length])
        entry = be64(1 << 62 | (sectors - 1) << 54 | len(image) + offset % 512)
        image[position : position + 8] = entry
        path = tmp_path / f"{kind}.img"
        stripped = bytes(image) + bytes(offset % 512) + unpadded(cluster, zstd=kind.endswith("zstd"))
        path.write_bytes(stripped)
        assert len(stripped) % 512
        assert accept(path).virtual_size == images.DISK_SIZE
        assert images.content_of(path, "qcow2") == images.disk()
        assert "truncated" in refusal(stripped[:-40], tmp_path)


def last_compressed_cluster(image: bytes) -> tuple[int, int, int]:
    """Offset and sectors of the compressed cluster that is last in the file, and where its L2 entry is."""
    l1 = int.from_bytes(image[0x28:0x30], "big")
    l2 = int.from_bytes(image[l1 : l1 + 8], "big") & 0x00FFFFFFFFFFFE00
    entries = [
        (value, l2 + 8 * n) for n, value in enumerate(struct.unpack_from(">8192Q", image, l2)) if value >> 62 & 1
    ]
    value, position = max(entries, key=lambda entry: entry[0] & ((1 << 54) - 1))
    return value & ((1 << 54) - 1), (value >> 54 & 0xFF) + 1, position


def unpadded(cluster: bytes, *, zstd: bool) -> bytes:
    """The compressed data without what follows it in its last sector."""
    if zstd:
        decompressor = ZstdDecompressor()
        decompressor.decompress(cluster)
        return cluster[: len(cluster) - len(decompressor.unused_data)]
    inflate = zlib.decompressobj(-12)
    inflate.decompress(cluster)
    return cluster[: len(cluster) - len(inflate.unused_data)]


class TestTablesThatPointBeyondTheEnd:
    FAR = 1 << 40

    @pytest.mark.parametrize(
        ("kind", "offset", "data"),
        [
            ("qcow2", 0x28, be64(1 << 40)),
            ("qcow2", 0x30, be64(1 << 40)),
            ("qcow2", 65536, be64(1 << 40)),
            ("vmdk-sparse", 0x38, le64(1 << 40)),
            ("vmdk-sparse", 26 * 512, le32(0xFFFFFF)),
            ("vdi", 0x154, le32(0xFFFFFE00)),
            ("vdi", 0x158, le32(0xFFFFFE00)),
            ("vdi", 512 + 4, le32(5000)),
            ("vhd-dynamic", 1536 + 4, be32(0x00FFFFFF)),
        ],
    )
    def test_an_offset_far_away_is_a_truncation(
        self, kind: str, offset: int, data: bytes, whole: dict[str, Path], tmp_path: Path
    ) -> None:
        assert "is truncated: it needs " in refusal(patched(whole[kind].read_bytes(), (offset, data)), tmp_path)

    @pytest.mark.parametrize("flag", [1 << 63, 0])
    def test_l2_entries_are_followed(self, flag: int, whole: dict[str, Path], tmp_path: Path) -> None:
        image = whole["qcow2"].read_bytes()
        l2 = table_behind(image, 0x28)
        assert "truncated" in refusal(patched(image, (l2 + 8 * 90, be64(flag | self.FAR))), tmp_path)

    def test_a_cluster_of_zeros_needs_no_data(self, whole: dict[str, Path], tmp_path: Path) -> None:
        image = whole["qcow2"].read_bytes()
        path = tmp_path / "zeros.qcow2"
        path.write_bytes(patched(image, (table_behind(image, 0x28) + 8 * 90, be64(self.FAR | 1))))
        assert accept(path).virtual_size == images.DISK_SIZE

    def test_subclusters_count_as_far_as_they_are_allocated(self, whole: dict[str, Path], tmp_path: Path) -> None:
        image = whole["qcow2-extended-l2"].read_bytes()
        end = len(image) - len(image) % 131072
        entry = table_behind(image, 0x28) + 16 * 45
        one_subcluster = image[:end] + bytes(4096)
        path = tmp_path / "sub.qcow2"
        path.write_bytes(patched(one_subcluster, (entry, be64(1 << 63 | end) + be64(1))))
        assert accept(path).virtual_size == images.DISK_SIZE
        assert "truncated" in refusal(patched(one_subcluster, (entry, be64(1 << 63 | end) + be64(2))), tmp_path)

    def test_compressed_clusters_count_with_their_sectors(self, whole: dict[str, Path], tmp_path: Path) -> None:
        image = whole["qcow2-zlib"].read_bytes()
        _, _, position = last_compressed_cluster(image)
        last = len(image) // 512 * 512 - 512
        assert "truncated" in refusal(patched(image, (position, be64(1 << 62 | 3 << 54 | last))), tmp_path)

    def test_the_blocks_of_a_vhdx_are_followed(self, whole: dict[str, Path], tmp_path: Path) -> None:
        image = whole["vhdx"].read_bytes()
        bat = image.index(uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le)
        (table,) = struct.unpack_from("<Q", image, bat + 16)
        assert "truncated" in refusal(patched(image, (table, le64(self.FAR | 6))), tmp_path)
        assert "only partly" in refusal(patched(image, (table, le64(7))), tmp_path)

    def test_a_fixed_vhd_is_as_long_as_it_says(self, tmp_path: Path) -> None:
        assert "truncated" in refusal(bytes(MIB // 2) + images.vhd_footer(), tmp_path)
        assert "damaged" in refusal(bytes(2 * MIB) + images.vhd_footer(), tmp_path)

    def test_a_geometry_larger_than_a_fixed_vhd_is_refused(self, tmp_path: Path) -> None:
        footer = images.vhd_footer(creator=b"vpc ", geometry=31 << 16 | 4 << 8 | 17)
        assert "truncated" in refusal(bytes(MIB) + footer, tmp_path)


def table_behind(image: bytes, field: int) -> int:
    """The table that the first entry of the table points at whose offset is in ``field``."""
    first = int.from_bytes(image[field : field + 8], "big")
    return int.from_bytes(image[first : first + 8], "big") & 0x00FFFFFFFFFFFE00


class TestBombs:
    @pytest.mark.parametrize(
        ("kind", "patches", "words"),
        [
            ("qcow2", [(0x18, be64((1 << 63) - 512))], "L1 table"),
            ("qcow2", [(0x18, be64(1 << 60)), (0x24, be32(0x7FFFFFFF))], "L1 table"),
            ("qcow2", [(0x24, be32(0))], "L1 table"),
            ("qcow2", [(0x38, be32(0xFFFFFFFF))], "refcount table"),
            ("qcow2", [(0x18, be64(1 << 49)), (0x24, be32(1 << 21))], "truncated"),
            ("vmdk-sparse", [(0x0C, le64(1 << 53))], "grain directory"),
            ("vmdk-sparse", [(0x0C, le64(1 << 40))], "truncated"),
            ("vmdk-sparse", [(0x14, le64(0))], "impossible grains"),
            ("vmdk-sparse", [(0x14, le64(1 << 40))], "impossible grains"),
            ("vmdk-sparse", [(0x2C, le32(1 << 30))], "impossible grains"),
            ("vmdk-sparse", [(0x4D, b"\1")], "contradicts itself"),
            ("vdi", [(0x180, le32(0xFFFFFFFF))], "block map"),
            ("vdi", [(0x180, le32(1))], "block map"),
            ("vdi", [(0x170, le64(1 << 48)), (0x180, le32(1 << 28))], "truncated"),
            ("vhd-dynamic", [(512 + 0x1C, be32(0xFFFFFFFF))], "block table"),
            ("vhd-dynamic", [(512 + 0x1C, be32(1))], "block table"),
            ("vhd-dynamic", [(512 + 0x20, be32(0))], "makes no sense"),
            ("vhd-dynamic", [(512 + 0x20, be32(512)), (512 + 0x1C, be32(0xFF000000))], "truncated"),
        ],
    )
    def test_a_table_larger_than_its_limit_or_its_file_is_refused_before_it_is_read(
        self, kind: str, patches: list[tuple[int, bytes]], words: str, whole: dict[str, Path], tmp_path: Path
    ) -> None:
        started = time.monotonic()
        assert words in refusal(patched(whole[kind].read_bytes(), *patches), tmp_path)
        assert time.monotonic() - started < 1

    def test_a_vhdx_whose_blocks_do_not_fit_their_table_is_refused(
        self, whole: dict[str, Path], tmp_path: Path
    ) -> None:
        image = whole["vhdx"].read_bytes()
        _, item = images.vhdx_item(image, "2fa54224-cd1b-4876-b211-5dbed83bf4b8")
        assert "block table" in refusal(patched(image, (item, le64(64 << 40))), tmp_path)

    def test_a_table_that_is_used_a_million_times_is_read_once(self, tmp_path: Path) -> None:
        path = tmp_path / "loop.qcow2"
        images.qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", path, "1T")
        image = bytearray(path.read_bytes().ljust(40 * MIB, b"\0"))
        entries = 1 << 20
        struct.pack_into(">Q", image, 0x18, entries << 39)
        struct.pack_into(">I", image, 0x24, entries)
        struct.pack_into(">Q", image, 0x28, 10 * MIB)
        image[10 * MIB : 18 * MIB] = be64(1 << 63 | 20 * MIB) * entries
        path.write_bytes(image)
        started = time.monotonic()
        assert accept(path).virtual_size == entries << 39
        assert time.monotonic() - started < 5


def test_a_large_full_image_takes_well_under_a_second(tmp_path: Path) -> None:
    """4 GiB of guest data: as long as the tables say, though hardly anything of it is on this disk."""
    for name, options in (("qcow2", "preallocation=metadata"), ("vdi", "static=on")):
        path = tmp_path / f"large.{name}"
        images.qemu_img("create", "-q", "-f", name, "-o", options, path, "4G")
        with path.open("rb") as file:
            head = file.read(32 * MIB)
        inspection = images.inspect(head)
        started = time.monotonic()
        check_complete(path, inspection, path.name)
        assert time.monotonic() - started < 0.5


@pytest.mark.parametrize("kind", WHOLE)
def test_flipped_bytes_in_the_tables_never_end_in_anything_but_a_verdict(
    kind: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    dice = random.Random(kind)
    image = whole[kind].read_bytes()
    path = tmp_path / "bent.img"
    verdicts = []
    for _ in range(25):
        base = dice.choice((0, 512, 26 * 512, 65536, 192 * 1024, MIB, 2 * MIB, 3 * MIB, len(image) - 1536))
        patches = [((base + dice.randrange(1536)) % len(image), dice.randbytes(2)) for _ in range(3)]
        path.write_bytes(patched(image, *patches))
        try:
            verdicts.append(accept(path).virtual_size > 0)
        except ImageRefusedError as error:
            verdicts.append(error.sentence.startswith("bent.img "))
    assert verdicts == [True] * 25
