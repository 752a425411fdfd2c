"""Runs the jobs in turn, so that whatever drifts on the machine hits all of them alike."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.jobs import Job, Outcome, Task
from rig.front_end import same_disk

_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True)
class Measurement:
    """One run of a job. Memory and space in bytes."""

    content: int
    image: str
    target: str
    rate: str
    job: str
    round: int
    seconds: float
    memory: int
    qemu_img: int
    scratch: int
    download: int


def measure(tasks: list[Task], jobs: list[Job], rounds: int, directory: Path) -> Iterator[Measurement]:
    """Do each task with each job that can, once in each round. The first results are verified."""
    for number in range(rounds):
        turn = number % len(jobs)
        for task in tasks:
            for job in (job for job in jobs[turn:] + jobs[:turn] if job.can(task.pair)):
                yield _once(task, job, number, directory)


def drops_caches() -> bool:
    """Whether each run starts with an empty page cache."""
    return os.geteuid() == 0 and os.access(_DROP_CACHES, os.W_OK)


def drop_caches() -> None:
    """Start with nothing to write, and with an empty page cache where that can be had."""
    os.sync()
    if drops_caches():
        _DROP_CACHES.write_text("3\n")


def _once(task: Task, job: Job, number: int, directory: Path) -> Measurement:
    task.corpus.md5(task.pair.image)
    directory.mkdir()
    try:
        drop_caches()
        outcome = job.run(task, directory)
        if number == 0:
            _verify(task, job, outcome)
        return Measurement(
            content=task.corpus.content,
            image=task.pair.image,
            target=task.pair.target,
            rate=task.rate,
            job=job.name,
            round=number + 1,
            seconds=outcome.seconds,
            memory=outcome.peaks.memory,
            qemu_img=outcome.peaks.qemu_img,
            scratch=outcome.peaks.scratch,
            download=task.corpus.image(task.pair.image).stat().st_size,
        )
    finally:
        shutil.rmtree(directory)


def _verify(task: Task, job: Job, outcome: Outcome) -> None:
    if job.name == "download":
        right = filecmp.cmp(task.corpus.image(task.pair.image), outcome.result, shallow=False)
    else:
        right = same_disk(task.corpus.image("raw"), "raw", outcome.result, task.pair.target)
    if not right:
        raise BenchError(f"{job.name} of {task.url} left something else than it was given")
