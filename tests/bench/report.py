"""What was measured, for people and for programs: a table on the terminal, Markdown, CSV."""

from __future__ import annotations

import csv
import os
import platform
import statistics
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from bench.corpus import MIB
from bench.errors import run
from bench.measure import Measurement, drops_caches
from bench.nginx import RATES

JOBS = ("download", "native", "serial", "oneconvert")
NOTES = (
    "Medians (smallest–largest), times in seconds. / serial: oneconvert's time divided by that of "
    "serial in the same round, and so on. "
    "Memory, MiB: peak PSS of all processes but qemu-img + peak of qemu-img. Disk, MiB: peak of the allocated space in "
    "the datastore, with the result. Serial: public tools as OpenNebula's fs driver uses them: curl, checksum and "
    "decompressor in a pipe; tar; qemu-img convert; fallocate -d."
)


@dataclass(frozen=True)
class Spread:
    """A median with what it is the median of."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1])

    def text(self, show: Callable[[float], str]) -> str:
        low, high = show(self.lowest), show(self.highest)
        return show(self.median) if low == high else f"{show(self.median)} ({low}–{high})"


@dataclass(frozen=True)
class Row:
    """All runs of one task: job -> its measurements in the order of the rounds."""

    content: int
    name: str
    rate: str
    runs: dict[str, list[Measurement]]

    def seconds(self, job: str) -> Spread | None:
        return Spread.of(run.seconds for run in self.runs[job]) if job in self.runs else None

    def ratio(self, job: str) -> Spread | None:
        """oneconvert's time to that of the job."""
        if job not in self.runs or "oneconvert" not in self.runs:
            return None
        both = zip(self.runs["oneconvert"], self.runs[job])
        return Spread.of(mine.seconds / other.seconds for mine, other in both)


def rows(measurements: Iterable[Measurement]) -> list[Row]:
    """One row for each task, in the order in which they were measured first."""
    found: dict[tuple[int, str, str], Row] = {}
    for one in sorted(measurements, key=lambda each: each.round):
        key = (one.content, f"{one.image} → {one.target}", one.rate)
        found.setdefault(key, Row(*key, {})).runs.setdefault(one.job, []).append(one)
    return list(found.values())


def size(content: int) -> str:
    """The content of a disk, in the largest unit that fits."""
    return f"{content >> 30} GiB" if content % (1 << 30) == 0 else f"{content // MIB} MiB"


def rate(name: str) -> str:
    """A rate of the web server."""
    return f"{RATES[name] // 1_000_000} MB/s" if RATES[name] else "unlimited"


def machine(directory: Path) -> str:
    """What the numbers were measured on."""
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    total = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    file_system = run(["df", "--output=fstype", directory]).split()[-1]
    qemu_img = run(["qemu-img", "--version"]).splitlines()[0].split("version ")[1].split()[0]
    caches = "page cache dropped before each run" if drops_caches() else "page cache kept"
    return (
        f"{cpu.split(': ')[1]}, {os.cpu_count()} cores, {total:.0f} GiB of memory, Linux {platform.release()}, "
        f"{file_system}, qemu-img {qemu_img}; {caches}"
    )


def _cells(row: Row, jobs: list[str]) -> list[str]:
    def seconds(value: float) -> str:
        return f"{value:.1f}"

    def ratio(value: float) -> str:
        return f"{value:.2f}"

    def mib(value: float) -> str:
        return f"{value / MIB:,.0f}"

    others = [job for job in jobs if job != "oneconvert"]
    times = [row.seconds(job) for job in jobs]
    ratios = [row.ratio(job) for job in others]
    cells = [size(row.content), row.name, rate(row.rate)]
    cells += [spread.text(seconds) if spread else "–" for spread in times]
    cells += [spread.text(ratio) if spread else "–" for spread in ratios]
    for job in ("serial", "oneconvert"):
        runs = row.runs.get(job, [])
        memory, qemu_img, scratch = (
            [mib(Spread.of(getattr(run, what) for run in runs).median) for what in ("memory", "qemu_img", "scratch")]
            if runs
            else ["–"] * 3
        )
        cells += [f"{memory} + {qemu_img}", scratch]
    return cells


def _titles(jobs: list[str]) -> list[str]:
    others = [job for job in jobs if job != "oneconvert"]
    titles = ["content", "image", "rate", *jobs, *(f"/ {job}" for job in others)]
    for job in ("serial", "oneconvert"):
        titles += [f"memory {job}", f"disk {job}"]
    return titles


def _jobs(found: list[Row]) -> list[str]:
    return [job for job in JOBS if any(job in row.runs for row in found)]


def show(found: list[Row], where: str, console: Console) -> None:
    """The table on the terminal."""
    jobs = _jobs(found)
    table = Table(box=SIMPLE_HEAD)
    for number, title in enumerate(_titles(jobs)):
        table.add_column(title, justify="left" if number < 3 else "right", no_wrap=number < 3)
    for row in found:
        table.add_row(*_cells(row, jobs))
    console.print(table)
    console.print(NOTES, where, sep="\n")


def markdown(found: list[Row], where: str) -> str:
    """The table for a README."""
    jobs = _jobs(found)
    titles = _titles(jobs)
    lines = [titles, ["---" if number < 3 else "---:" for number in range(len(titles))]]
    lines += [_cells(row, jobs) for row in found]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{NOTES}\n\nMeasured on: {where}.\n"


class Csv:
    """Single measurements, each written when it was made."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._writer = csv.writer(file)
        self._writer.writerow(field.name for field in fields(Measurement))

    def add(self, measurement: Measurement) -> None:
        self._writer.writerow(astuple(measurement))
        self._file.flush()
