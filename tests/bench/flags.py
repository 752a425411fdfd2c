"""What options of ``qemu-img convert`` are worth: each is measured in turn with the others, against none of them."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.corpus import MIB, Corpus
from bench.errors import run
from bench.measure import drop_caches


@dataclass(frozen=True)
class Flags:
    """Options of a conversion, and what is done before it, with the target and the size of the disk."""

    name: str
    options: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("qcow2", "raw", "vmdk")
    prepare: Callable[[Path, str, int], None] = lambda target, name, size: None


def _create(target: Path, name: str, size: int) -> None:
    run(["qemu-img", "create", "-q", "-f", name, target, str(size)])


NONE = Flags("none")
FLAGS = (
    NONE,
    Flags("-W", ("-W",)),
    Flags("-W -m 16", ("-W", "-m", "16")),
    Flags("-m 1", ("-m", "1")),
    Flags("-m 16", ("-m", "16")),
    Flags("-t writeback", ("-t", "writeback")),
    Flags("-t none", ("-t", "none")),
    Flags("-T none", ("-T", "none")),
    Flags("-S 64k", ("-S", "64k")),
    Flags("-n --target-is-zero", ("-n", "--target-is-zero"), prepare=_create),
    Flags("-o preallocation=metadata", ("-o", "preallocation=metadata"), targets=("qcow2",)),
    Flags("-o preallocation=falloc", ("-o", "preallocation=falloc"), targets=("qcow2", "raw")),
    Flags("-o cluster_size=2M", ("-o", "cluster_size=2M"), targets=("qcow2",)),
)


def flags(corpus: Corpus, target: str, rounds: int, directory: Path) -> str:
    """A table in Markdown: the raw disk of ``corpus`` to the format ``target``, by a cold cache."""
    source = corpus.image("raw")
    chosen = [each for each in FLAGS if target in each.targets]
    seconds: dict[str, list[float]] = {each.name: [] for each in chosen}
    space: dict[str, int] = {}
    for number in range(rounds):
        turn = number % len(chosen)
        for each in chosen[turn:] + chosen[:turn]:
            directory.mkdir()
            try:
                result = directory / "result"
                drop_caches()
                started = time.monotonic()
                each.prepare(result, target, source.stat().st_size)
                run(["qemu-img", "convert", "-f", "raw", "-O", target, *each.options, source, result])
                seconds[each.name].append(time.monotonic() - started)
                space[each.name] = result.stat().st_blocks * 512
            finally:
                shutil.rmtree(directory)
    lines = [f"| raw → {target} | seconds | / none | MiB on disk |", "|---|---:|---:|---:|"]
    for each in chosen:
        ratio = statistics.median(one / other for one, other in zip(seconds[each.name], seconds[NONE.name]))
        spread = f"{min(seconds[each.name]):.1f}–{max(seconds[each.name]):.1f}"
        median = statistics.median(seconds[each.name])
        lines.append(f"| `{each.name}` | {median:.1f} ({spread}) | {ratio:.2f} | {space[each.name] // MIB:,} |")
    return "\n".join(lines) + "\n"
