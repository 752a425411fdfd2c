"""A vCenter for the tests: the program in ``simulator``, which is govmomi's library and what that lacks.

``unavailable`` says why there is none on this machine, where that is so.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rig.tls import Authority, thumbprint

SOURCES = Path(__file__).parent / "simulator"
CACHE = Path(__file__).resolve().parents[2] / ".simulator"
GOPATH = Path("/usr/share/gocode")
GOVMOMI = GOPATH / "src/github.com/vmware/govmomi/simulator"
USER = "administrator@vsphere.local"
PASSWORD = "correct horse battery staple"


@dataclass(frozen=True)
class SimulatedDatastore:
    """A datastore: ``directory`` is what it holds, in the file system of the tests."""

    ref: str
    name: str
    directory: Path


@dataclass(frozen=True)
class SimulatedVCenter:
    """A vCenter that runs. ``certificate`` is its certificate and key, ``ca_file`` that of who signed it, as PEM files.

    ``datacenter_path`` is the path of the datacenter in the inventory, without the root folder.
    """

    host: str
    port: int
    user: str
    password: str
    ca_file: Path
    certificate: Path
    sha1: str
    sha256: str
    datacenter_ref: str
    datacenter_name: str
    datacenter_path: str
    datastores: tuple[SimulatedDatastore, ...]
    cluster_ref: str
    resource_pool_ref: str
    host_ref: str
    vm_folder_ref: str
    instance_uuid: str
    control_port: int
    process: subprocess.Popen[str] = field(repr=False)

    @property
    def datastore(self) -> SimulatedDatastore:
        return self.datastores[0]

    def calls(self, method: str = "", kind: str = "") -> list[dict[str, Any]]:
        """What was asked for since the last ``forget``, all of it or this method of the API or of HTTP."""
        calls = json.loads(self._control("GET", "calls")) or []
        return [each for each in calls if method in ("", each["method"]) and kind in ("", each["kind"])]

    def forget(self) -> None:
        """Drop the calls so far."""
        self._control("POST", "forget")

    def fail(self, what: str, **details: object) -> None:
        """Have something go wrong; simulator/control.go lists what."""
        self._control("POST", "fail", {"what": what, **details})

    def fail_method(self, method: str, fault: str, **fields: str) -> None:
        """Have the next call of this method, or its task, end with this fault of the API."""
        self.fail("method", method=method, fault=fault, **fields)

    def heal(self) -> None:
        """Nothing goes wrong any more."""
        self._control("POST", "heal")

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self.process.kill()
        self.process.wait()

    def _control(self, method: str, path: str, query: dict[str, object] | None = None) -> bytes:
        # Not through a proxy of the environment.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        url = f"http://127.0.0.1:{self.control_port}/control/{path}?{urllib.parse.urlencode(query or {})}"
        with opener.open(urllib.request.Request(url, method=method), timeout=20) as answer:
            return bytes(answer.read())


def unavailable() -> str:
    """Why the simulator cannot be built here, empty where it can."""
    if not GOVMOMI.is_dir():
        return "govmomi is not installed (package golang-github-vmware-govmomi-dev; there is none for dnf)"
    return "" if shutil.which("go") else "go is not installed (package golang-go)"


def build() -> Path:
    """The program, from the cache of the checkout unless its sources have changed."""
    digest = hashlib.sha256()
    sources = sorted(SOURCES.glob("*.go"))
    for source in sources:
        digest.update(source.read_bytes())
    program = CACHE / f"vcenter-{digest.hexdigest()[:16]}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run side by side
        if not program.exists():
            for old in CACHE.glob("vcenter-*"):
                old.unlink()
            environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": ""}
            environment |= {"GOCACHE": str(CACHE / "go"), "CGO_ENABLED": "0"}
            half_built = CACHE / "half-built"
            subprocess.run(["go", "build", "-o", half_built, "."], cwd=SOURCES, env=environment, check=True)
            half_built.rename(program)
    return program


@contextmanager
def simulated_vcenter(
    directory: Path,
    *,
    datastores: Sequence[str] = ("datastore1",),
    datacenter: str = "DC0",
    folder: str = "",
    clusters: int = 1,
    idle_seconds: float = 0,
    lease_seconds: float = 300,
) -> Iterator[SimulatedVCenter]:
    """Run a vCenter with these datastores, in a directory each below ``directory``.

    Sessions end after ``idle_seconds`` without a call (0: never), leases after ``lease_seconds`` without progress.
    """
    authority = Authority.make(directory / "ca.pem")
    certificate = authority.issue(directory / "server.pem")
    command: list[object] = [build(), "-certificate", certificate, "-key", certificate]
    command += ["-user", USER, "-password", PASSWORD, "-datacenter", datacenter, "-folder", folder]
    command += ["-clusters", clusters]
    command += ["-idle", f"{idle_seconds}s", "-lease", f"{lease_seconds}s"]
    for number, name in enumerate(datastores):
        contents = directory / f"datastore-{number}"
        contents.mkdir()
        command += ["-datastore", f"{name}={contents}"]
    with (directory / "simulator.log").open("w") as log:
        process = subprocess.Popen(
            [str(each) for each in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"TMPDIR": str(directory)},  # what it leaves when it is killed goes with the rest
        )
    assert process.stdin and process.stdout
    try:
        line = process.stdout.readline()
        assert line, (directory / "simulator.log").read_text()
        ready = json.loads(line)
        found = [SimulatedDatastore(each["ref"], each["name"], Path(each["directory"])) for each in ready["datastores"]]
        yield SimulatedVCenter(
            host="127.0.0.1",
            port=ready["port"],
            user=USER,
            password=PASSWORD,
            ca_file=authority.file,
            certificate=certificate,
            sha1=thumbprint(certificate, "sha1"),
            sha256=thumbprint(certificate, "sha256"),
            datacenter_ref=ready["datacenter_ref"],
            datacenter_name=ready["datacenter"],
            datacenter_path=ready["datacenter_path"],
            datastores=tuple(found),
            cluster_ref=ready["cluster_ref"],
            resource_pool_ref=ready["resource_pool_ref"],
            host_ref=ready["host_ref"],
            vm_folder_ref=ready["vm_folder_ref"],
            instance_uuid=ready["instance_uuid"],
            control_port=ready["control_port"],
            process=process,
        )
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
