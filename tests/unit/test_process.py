"""Programs that read foreign data run with limits, and never outlive the import."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oneconvert.errors import CommandError
from oneconvert.jobs import landlock
from oneconvert.jobs.process import UNLIMITED, Limits, run
from rig.web import wait_until

MIB = 1024 * 1024
PYTHON = (sys.executable, "-I", "-c")
CONNECT = "import socket; socket.create_connection(('127.0.0.1', {port}), 2); print('connected')"


def test_output_and_status_are_returned() -> None:
    ended = run([*PYTHON, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"], UNLIMITED)
    assert (ended.status, ended.stdout, ended.stderr) == (3, b"out\n", b"err\n")
    assert ended.explain().endswith("err")


def test_standard_input_is_given() -> None:
    assert run(["cat"], UNLIMITED, stdin=b"x" * MIB).stdout == b"x" * MIB


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(CommandError, match="cannot run no-such-program: it is not there"):
        run(["no-such-program"], UNLIMITED)


def test_memory_is_limited() -> None:
    ended = run([*PYTHON, f"bytearray({400 * MIB})"], Limits(address_space=200 * MIB))
    assert b"MemoryError" in ended.stderr


def test_cpu_time_is_limited() -> None:
    ended = run([*PYTHON, "while True: pass"], Limits(cpu_seconds=1))
    assert ended.status == -signal.SIGKILL
    assert "limit of CPU time" in ended.explain()


def test_the_size_of_a_file_is_limited(tmp_path: Path) -> None:
    path = tmp_path / "file"
    ended = run([*PYTHON, f"open({str(path)!r}, 'wb').write(bytes({2 * MIB}))"], Limits(file_size=MIB))
    assert ended.status == -signal.SIGXFSZ or b"File too large" in ended.stderr
    assert path.stat().st_size <= MIB


def test_there_is_no_network_unless_it_is_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = CONNECT.format(port=server.getsockname()[1])
        assert run([*PYTHON, program], Limits(network=True)).stdout == b"connected\n"
        ended = run([*PYTHON, program], Limits())
    assert b"PermissionError" in ended.stderr


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_files_are_out_of_reach_but_those_that_are_given(tmp_path: Path) -> None:
    given, secret = tmp_path / "given", tmp_path / "secret"
    given.mkdir()
    secret.write_text("canary")
    limits = Limits(files=(str(given),))
    writes = run(["sh", "-c", f"echo yes > {given}/file; cat {given}/file"], limits)
    assert writes.stdout == b"yes\n", writes.stderr
    for command in (
        f"cat {secret}",
        f"cat {given}/../secret",
        "cat /etc/passwd",
        f"echo > {tmp_path}/new",
        f"rm {secret}",
    ):
        ended = run(["sh", "-c", command], limits)
        assert ended.status != 0
        assert b"canary" not in ended.stdout
        assert b"ermission denied" in ended.stderr
    (given / "link").symlink_to(secret)
    assert run(["cat", given / "link"], limits).status != 0


@pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")
def test_a_hostile_image_that_fooled_every_reader_still_finds_nothing(tmp_path: Path) -> None:
    """As if the inspection were not there: a qcow2 whose backing file is a file of this host."""
    job, secret = tmp_path / "job", tmp_path / "secret"
    job.mkdir()
    secret.write_bytes(b"canary!!" * 8192)
    image, result = job / "source", job / "result"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", secret, "-F", "raw", image, "64k"]
    subprocess.run(command, check=True)
    convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, result]
    assert run(convert, Limits()).status == 0, "without the fence it is read"
    assert b"canary" in result.read_bytes()
    result.unlink()
    assert run(convert, Limits(files=(str(job),))).status != 0
    assert not result.exists() or b"canary" not in result.read_bytes()


def test_qemu_img_cannot_use_the_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"nbd://127.0.0.1:{server.getsockname()[1]}/x"
        assert run(["qemu-img", "info", address], Limits()).status != 0
        with pytest.raises(OSError, match="timed out"):
            server.accept()


def test_what_a_program_started_ends_with_it_when_we_are_interrupted(tmp_path: Path) -> None:
    started = tmp_path / "pids"
    script = f"sleep 61 & echo $! > {started}; echo $$ >> {started}; wait"
    code = (
        "import sys; from oneconvert.jobs.process import run, UNLIMITED\n"
        "from oneconvert.jobs.signals import hold_signals, interruptible\n"
        "hold_signals()\n"
        "with interruptible(): run(['sh', '-c', sys.argv[1]], UNLIMITED)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, script], stderr=subprocess.DEVNULL)
    assert wait_until(lambda: started.exists() and len(started.read_text().split()) == 2)
    process.terminate()
    process.wait(timeout=20)
    for pid in started.read_text().split():
        assert wait_until(lambda pid=pid: not alive(int(pid)))  # type: ignore[misc]


def test_a_program_dies_with_us_even_when_we_are_killed(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    code = "import sys; from oneconvert.jobs.process import run, UNLIMITED\nrun(['sh', '-c', sys.argv[1]], UNLIMITED)\n"
    process = subprocess.Popen([sys.executable, "-c", code, f"echo $$ > {started}; exec sleep 61"])
    assert wait_until(lambda: started.exists() and bool(started.read_text().strip()))
    process.kill()
    process.wait()
    assert wait_until(lambda: not alive(int(started.read_text())))


def test_a_program_that_ignores_a_polite_signal_is_killed() -> None:
    code = (
        "import sys, threading, os, signal; from oneconvert.jobs.process import run, UNLIMITED\n"
        "import oneconvert.jobs.process as p; p.PATIENCE = 0.3\n"
        "from oneconvert.jobs.signals import hold_signals, interruptible\n"
        "hold_signals()\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "stubborn = 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(61)'\n"
        "with interruptible(): run([sys.executable, '-c', stubborn], UNLIMITED)\n"
    )
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False, timeout=30)
    assert time.monotonic() - begun < 20


def test_something_that_cannot_be_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(CommandError, match="cannot start"):
        run(["true"], UNLIMITED)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_our_own_process_is_alive() -> None:
    assert alive(os.getpid())
