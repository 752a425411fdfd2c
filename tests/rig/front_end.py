"""A front-end in a directory: the stand-in for OpenNebula's drivers, with oneconvert installed by install.sh."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rig.messages import Datastore, Messages

REPOSITORY = Path(__file__).resolve().parents[2]
RELEASES = {"5.12": (5, 12, 13), "6.4": (6, 4, 6), "6.8": (6, 8, 3), "7.4": (7, 4, 0)}

INSTALLATION = 600  # seconds that it may take

# A native driver that writes down what it was given and answers with what it was told to.
RECORDER = """#!/bin/sh
here=${0%/*}
cat > "$here/record/stdin"
printf '%s\\n' "$0" "$@" > "$here/record/arguments"
cat "$here/record/stdout"
cat "$here/record/stderr" >&2
exit "$(cat "$here/record/status")"
"""

# A third-party driver in the way of addon-linstor: it knows nothing of downloader.sh and copies PATH itself.
THIRD_PARTY = """#!/usr/bin/env python3
import base64, re, shutil, sys
document = base64.b64decode(sys.stdin.read()).decode()
def text(tag):
    return re.search(f"<{tag}>(?:<!\\\\[CDATA\\\\[)?(.*?)(?:]]>)?</{tag}>", document).group(1)
target = text("BASE_PATH") + "/volume-" + sys.argv[-1]
shutil.copyfile(text("PATH"), target)
print(target)
"""


@dataclass(frozen=True)
class Answer:
    """What oned would get, and how long the action took in seconds."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def source(self) -> Path:
        return Path(self.stdout.split()[0])

    @property
    def format(self) -> str:
        return self.stdout.split()[1]


@dataclass(frozen=True)
class Record:
    """What reached the recording driver."""

    program: str
    arguments: list[str]
    stdin: bytes


class FrontEnd:
    """A self-contained OpenNebula in ``location``."""

    def __init__(self, location: Path) -> None:
        self.location = location
        self.remotes = location / "var" / "remotes"
        self.log = location / "var" / "oneconvert.log"
        self._idents = itertools.count(100)

    @classmethod
    def install(cls, location: Path) -> FrontEnd:
        front_end = cls(location)
        shutil.copytree(REPOSITORY / "share" / "demo" / "remotes", front_end.remotes, symlinks=True)
        drivers = front_end.remotes / "datastore"
        recorder = drivers / "recorder"
        (recorder / "record").mkdir(parents=True)
        for action in ("cp", "rm", "stat", "mkfs", "clone", "monitor", "snap_delete", "export", "restore"):
            (recorder / action).write_text(RECORDER)
            (recorder / action).chmod(0o755)
        third_party = drivers / "thirdparty"
        third_party.mkdir()
        (third_party / "cp").write_text(THIRD_PARTY)
        (third_party / "cp").chmod(0o755)
        for name in ("dev", "ceph", "vcenter"):
            shutil.copytree(recorder, drivers / name)
        (location / "etc").mkdir()
        command = [REPOSITORY / "install.sh", "--no-packages"]
        subprocess.run(
            command, env=front_end.environment(), check=True, stdout=subprocess.DEVNULL, timeout=INSTALLATION
        )
        return front_end

    @classmethod
    def copied(cls, installed: FrontEnd, location: Path) -> FrontEnd:
        """One like another, which nothing was done with yet."""
        copy_installation(installed.location, location)
        return cls(location)

    def environment(self, **extra: str) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in os.environ if not name.lower().endswith("_proxy")}
        # As for oned, python3 is Python, and no script that looks for one of several for longer than an import takes.
        path = f"{Path(sys.executable).resolve().parent}:{os.environ['PATH']}"
        return {**inherited, "PATH": path, "ONE_LOCATION": str(self.location), "HOME": str(self.location), **extra}

    def datastore(self, driver: str | None = "qcow2", ds_mad: str = "oneconvert_fs", **other: object) -> Datastore:
        """A new, empty datastore."""
        ident = next(self._idents)
        base = self.location / "var" / "datastores" / str(ident)
        base.mkdir(parents=True)
        return replace(Datastore(ident, str(base), ds_mad, driver), **other)  # type: ignore[arg-type]

    def call(
        self,
        action: str,
        document: str | bytes,
        driver: str = "oneconvert_fs",
        ident: int | str = 42,
        release: str = "7.4",
        **environment: str,
    ) -> Answer:
        """Run an action as one_datastore.rb of ``release`` does; ``6.4 -i`` is 6.4 with its stdin option."""
        process, stdin = self.start(action, document, driver, ident, release, **environment)
        started = time.monotonic()
        stdout, stderr = process.communicate(stdin)
        return Answer(process.returncode, stdout.decode(), stderr.decode(), time.monotonic() - started)

    def start(
        self,
        action: str,
        document: str | bytes,
        driver: str = "oneconvert_fs",
        ident: int | str = 42,
        release: str = "7.4",
        **environment: str,
    ) -> tuple[subprocess.Popen[bytes], bytes]:
        """Start an action; returns its process and what must be written to it."""
        payload = base64.b64encode(document.encode()) if isinstance(document, str) else document
        arguments, stdin = [str(ident)], payload
        if release.endswith(" -i"):
            arguments = ["-", str(ident)]
        elif RELEASES[release] < (6, 8):
            arguments, stdin = [payload.decode(), str(ident)], b""
        process = subprocess.Popen(
            [self.remotes / "datastore" / driver / action, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.location / "var",
            env=self.environment(**environment),
            start_new_session=True,
        )
        return process, stdin

    def begin(self, action: str, document: str, driver: str = "oneconvert_fs") -> subprocess.Popen[bytes]:
        """Start an action and give it its document; it runs on by itself."""
        process, stdin = self.start(action, document, driver)
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None  # or communicate() would flush it
        return process

    def record(self, driver: str = "recorder") -> Record:
        """What the recording driver was given last."""
        directory = self.remotes / "datastore" / driver / "record"
        program, *arguments = (directory / "arguments").read_text().splitlines()
        return Record(program, arguments, (directory / "stdin").read_bytes())

    def will_answer(self, stdout: str = "", stderr: str = "", status: int = 0, driver: str = "recorder") -> None:
        """Tell the recording driver what to say next."""
        directory = self.remotes / "datastore" / driver / "record"
        for stale in ("stdin", "arguments"):
            (directory / stale).unlink(missing_ok=True)
        for name, text in (("stdout", stdout), ("stderr", stderr), ("status", str(status))):
            (directory / name).write_text(text)

    @contextmanager
    def settings(self, **values: object) -> Iterator[None]:
        """Lines at the end of oneconvert.conf, for a while."""
        path = self.remotes / "etc" / "oneconvert" / "oneconvert.conf"
        before = path.read_text()
        path.write_text(before + "".join(f"{name} = {value}\n" for name, value in values.items()))
        try:
            yield
        finally:
            path.write_text(before)

    def left_in(self, datastore: Datastore) -> list[str]:
        """Everything in the datastore's directory, hidden or not."""
        base = Path(datastore.base_path)
        return sorted(str(path.relative_to(base)) for path in base.rglob("*"))


def messages(release: str = "7.4") -> Messages:
    return Messages(RELEASES[release.removesuffix(" -i")])


def info(path: Path, *options: str) -> dict[str, object]:
    answer = subprocess.run(["qemu-img", "info", "--output=json", *options, path], check=True, capture_output=True)
    return dict(json.loads(answer.stdout))


def same_disk(one: Path, one_format: str, other: Path, other_format: str) -> bool:
    """Whether a guest would see the same bytes, and a disk of the same size."""
    command = ["qemu-img", "compare", "-f", one_format, "-F", other_format, one, other]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    # It tells of different sizes, too, but calls disks identical where the longer one ends with zeros.
    return answer.returncode == 0 and answer.stdout == "Images are identical.\n"


def copy_installation(source: Path, target: Path) -> None:
    """Copy an OpenNebula with oneconvert in it. The Python environment is large, and nobody changes a file of it: there
    the copies are links.
    """

    def copy(one: str, other: str) -> None:
        if "/venv-" in one:
            os.link(one, other)
        else:
            shutil.copy2(one, other)

    shutil.copytree(source, target, symlinks=True, copy_function=copy)


def processes_of(group: int) -> list[int]:
    """The living processes of a session, by its leader's pid."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208  # asked often, of many processes
        try:
            with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == group and fields[0] != b"Z":
            found.append(int(pid))
    return found


def interrupt(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(timeout=30)
