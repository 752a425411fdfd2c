"""Start a program with limits that it cannot lift. Run as a script, by path.

    python3 -I -S confine.py PARENT LIMITS PROGRAM [ARGUMENT...]

LIMITS is the JSON of jobs.process.Limits. It is a process of its own, not a hook between fork and exec, because only
async-signal-safe code may run there. The program is killed when PARENT, our process, dies (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys

# By path, and without the site packages: this starts several times in each import.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120

from oneconvert.jobs import landlock, seccomp

PR_SET_PDEATHSIG = 1
# What a program needs to run at all.
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache", "/dev/urandom", "/dev/zero")
SYSTEM_WRITABLE = ("/dev/null",)


def confine(parent: int, limits: dict[str, object]) -> None:
    """Put the limits on this process. Raises OSError when the kernel refuses one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, *(ctypes.c_ulong(each) for each in (signal.SIGKILL, 0, 0, 0))) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if os.getppid() != parent:  # it died before we could ask
        os.kill(os.getpid(), signal.SIGKILL)
    for kind, name in (
        (resource.RLIMIT_AS, "address_space"),
        (resource.RLIMIT_CPU, "cpu_seconds"),
        (resource.RLIMIT_FSIZE, "file_size"),
    ):
        value = limits[name]
        if isinstance(value, int) and value:
            resource.setrlimit(kind, (value, value))
    files = limits["files"]
    if isinstance(files, list):
        landlock.restrict(SYSTEM, (*SYSTEM_WRITABLE, *map(str, files)))
    if not limits["network"]:
        seccomp.give_up_sockets()


def main(arguments: list[str]) -> None:
    """Confine this process and become the program. Standard output and error are left to the program."""
    parent, limits, program = int(arguments[0]), json.loads(arguments[1]), arguments[2:]
    # The parent holds signals back, and Python ignores some; the program begins with neither.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        confine(parent, limits)
        os.execv(program[0], program)  # noqa: S606 (no shell)
    except OSError as error:
        print(f"cannot start {program[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
