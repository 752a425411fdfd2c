"""Measures oneconvert against the same steps done by public tools. tests/bench/run starts it."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.corpus import MIB, Corpus
from bench.device import device
from bench.errors import BenchError
from bench.flags import flags
from bench.jobs import PAIRS, Download, Job, Pair, Serial, Task, drivers
from bench.measure import Measurement, measure
from bench.nginx import RATES, serve
from bench.plot import plot
from bench.report import Csv, machine, markdown, rate, rows, show, size
from conformance.layout import LayoutError

_SLOW = ("raw.xz", "raw.bz2")
_PROGRAMS = (
    "nginx",
    "qemu-img",
    "curl",
    "openssl",
    "mke2fs",
    "sfdisk",
    "pigz",
    "gunzip",
    "xz",
    "bunzip2",
    "pbzip2",
    "zstd",
    "tar",
    "fallocate",
)


def _sizes(text: str) -> list[int]:
    """Bytes; a number is GiB unless an M follows it."""
    if not re.fullmatch(r"[1-9]\d*M?(,[1-9]\d*M?)*", text):
        raise argparse.ArgumentTypeError(f"{text} is no list of sizes")
    sizes = [int(one[:-1]) * MIB if one.endswith("M") else int(one) * 1024 * MIB for one in text.split(",")]
    if min(sizes) < 16 * MIB:
        raise argparse.ArgumentTypeError("the smallest size is 16M")
    return sizes


def _pairs(text: str) -> list[Pair]:
    wanted = text.split(",")
    known = {name for pair in PAIRS for name in (pair.image, f"{pair.image}:{pair.target}")}
    if unknown := sorted(set(wanted) - known):
        raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [pair for pair in PAIRS if pair.image in wanted or f"{pair.image}:{pair.target}" in wanted]


def _setting(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the images there; else they are removed")
    parser.add_argument("--size", type=_sizes, default=_sizes("1"), metavar="LIST",
                        help="content of the disks in GiB, or MiB with an M, as in 256M,1,4 (1)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="measurements of each (3)")
    parser.add_argument("--rate", choices=[*RATES, "both"], default="both", help="of the web server (both)")
    parser.add_argument("--only", type=_pairs, metavar="LIST",
                        help=f"images, or image:target; all but {' and '.join(_SLOW)}. There are "
                             + ", ".join(f"{pair.image}:{pair.target}" for pair in PAIRS))  # fmt: skip
    parser.add_argument("--native", type=Path, metavar="DIR", help="an OpenNebula source tree, to measure its fs, too")
    parser.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE",
                        help="a setting of oneconvert.conf")  # fmt: skip
    parser.add_argument("--prepare", action="store_true", help="only make the images; needs --work")
    parser.add_argument("--flags", action="store_true",
                        help="measure options of qemu-img convert instead, from the raw disk")  # fmt: skip
    parser.add_argument("--device", action="store_true",
                        help="measure our block device instead, against the file that it serves")  # fmt: skip
    parser.add_argument("--smoke", action="store_true", help="a quick look whether all of this works: 64M, one round")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every single measurement")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a PNG")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for a README")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.size, options.rounds, options.rate = _sizes("64M"), 1, "unlimited"
        options.only = options.only or _pairs("vmdk-stream,raw.gz")
    if options.rounds < 1 or (options.prepare and not options.work):
        parser.error("--rounds is at least 1, and --prepare needs --work")
    options.only = options.only or [pair for pair in PAIRS if pair.image not in _SLOW]
    return options


def _bench(options: argparse.Namespace, console: Console, directory: Path, temporary: Path) -> None:
    images = directory / "images"
    images.mkdir(exist_ok=True)
    corpora = [Corpus(images / size(content).replace(" ", ""), content, console.print) for content in options.size]
    for corpus in corpora:
        for name in dict.fromkeys(["raw", *(pair.image for pair in options.only)]):
            corpus.image(name)
    if options.prepare:
        return
    if options.flags:
        for corpus in corpora:
            for target in ("qcow2", "raw", "vmdk"):
                console.print(flags(corpus, target, options.rounds, temporary / "flags"), machine(directory), sep="\n")
        return
    if options.device:
        for corpus in corpora:
            console.print(device(corpus, options.rounds, temporary / "device"), machine(directory), sep="\n")
        return
    console.print("installing oneconvert")
    front_end, driven = drivers(temporary, options.native and options.native.resolve())
    jobs: list[Job] = [Serial(), Download(), *driven]
    where = machine(directory)
    measurements: list[Measurement] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(front_end.settings(**dict(options.set)))
        server = stack.enter_context(serve(images, temporary / "nginx"))
        csv = Csv(stack.enter_context(options.csv.open("w", newline=""))) if options.csv else None
        rates = list(RATES) if options.rate == "both" else [options.rate]
        tasks = [Task(corpus, pair, server, name) for corpus in corpora for name in rates for pair in options.only]
        for one in measure(tasks, jobs, options.rounds, temporary / "datastore"):
            measurements.append(one)
            if csv:
                csv.add(one)
            what = f"{size(one.content)} {one.image} → {one.target}, {rate(one.rate)}, {one.job}"
            console.print(f"{one.round}/{options.rounds}  {what}: {one.seconds:.1f} s", highlight=False)
    found = rows(measurements)
    show(found, where, console)
    if options.markdown:
        options.markdown.write_text(markdown(found, where))
    if options.plot:
        plot(found, where, options.plot)


def main(arguments: Sequence[str]) -> int:
    """Measure. Returns the exit status: 1 when a step failed, 130 when it was interrupted."""
    os.environ.pop("PYTHONPATH", None)  # ours; nothing that is measured may find modules there
    options = _options(arguments)
    console = Console(width=None if sys.stdout.isatty() else 200)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if missing := [program for program in _PROGRAMS if not shutil.which(program)]:
        console.print(f"tests/bench/run: there is no {', '.join(missing)}", style="red")
        return 1
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=options.work) as made:
            temporary = Path(made).resolve()
            _bench(options, console, options.work.resolve() if options.work else temporary, temporary)
    except KeyboardInterrupt:
        console.print("tests/bench/run: interrupted", style="red")
        return 130
    except (BenchError, LayoutError, OSError, subprocess.CalledProcessError) as error:
        console.print(f"tests/bench/run: {error}", style="red", markup=False, highlight=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
