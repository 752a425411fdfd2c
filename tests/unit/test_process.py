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
    ended = run(["no-such-program"], UNLIMITED)
    assert ended.status == 127
    assert "cannot start no-such-program: No such file or directory" in ended.explain()


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


def test_qemu_img_cannot_use_the_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"nbd://127.0.0.1:{server.getsockname()[1]}/x"
        assert run(["qemu-img", "info", address], Limits()).status != 0
        with pytest.raises(TimeoutError):
            server.accept()


def test_what_a_program_started_ends_with_it_when_we_are_interrupted(tmp_path: Path) -> None:
    started = tmp_path / "pids"
    script = f"sleep 61 & echo $! > {started}; echo $$ >> {started}; wait"
    code = (
        "import sys; from oneconvert.jobs.process import run, UNLIMITED\n"
        "from oneconvert.jobs.signals import raise_on_signals\n"
        "raise_on_signals(); run(['sh', '-c', sys.argv[1]], UNLIMITED)\n"
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
        "from oneconvert.jobs.signals import raise_on_signals\n"
        "raise_on_signals()\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "stubborn = 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(61)'\n"
        "run([sys.executable, '-c', stubborn], UNLIMITED)\n"
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
