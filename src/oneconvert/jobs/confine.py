"""Start a program that reads foreign data with limits that it cannot lift. Run as a script, by path.

    python3 -I -S confine.py PARENT ADDRESS_SPACE CPU_SECONDS FILE_SIZE NETWORK PROGRAM [ARGUMENT...]

It is a process of its own, not a hook between fork and exec, because only async-signal-safe code may run there. The
limits are those of setrlimit(2), 0 for none. The program is killed when PARENT, our process, dies (prctl(2),
PR_SET_PDEATHSIG). NETWORK ``no`` installs a seccomp filter under which no socket can be made.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys

PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
EPERM = 1

# Machine -> (AUDIT_ARCH of linux/audit.h, number of socket(2)); io_uring_setup(2), which can make sockets
# without socket(2), has the same number on all newer tables (asm-generic/unistd.h).
ARCHITECTURES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
IO_URING_SETUP = 425
X32_SYSCALL_BIT = 0x40000000


class SockFprog(ctypes.Structure):
    """``struct sock_fprog`` of linux/filter.h."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def network_filter(machine: str) -> bytes | None:
    """A classic BPF program for seccomp(2) that fails socket(2) and io_uring_setup(2) with EPERM.

    None for a machine whose system call numbers are not in the table.
    """
    if machine not in ARCHITECTURES:
        return None
    arch, socket_number = ARCHITECTURES[machine]
    load, equal, at_least, give = (
        0x20,
        0x15,
        0x35,
        0x06,
    )  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
    refuse, allow, kill = 0x00050000 | EPERM, 0x7FFF0000, 0x80000000
    program = (
        (load, 0, 0, 4),  # seccomp_data.arch
        (equal, 1, 0, arch),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # seccomp_data.nr
        (equal, 3, 0, socket_number),
        (equal, 2, 0, IO_URING_SETUP),
        (at_least, 1, 0, X32_SYSCALL_BIT),
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def confine(parent: int, address_space: int, cpu_seconds: int, file_size: int, network: bool) -> None:
    """Put the limits on this process. Raises OSError when the kernel refuses one."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prctl(option: int, *arguments: object) -> None:
        values = [argument if argument is not None else 0 for argument in arguments]
        values += [0] * (4 - len(values))
        if libc.prctl(option, *(ctypes.c_ulong(v) if isinstance(v, int) else v for v in values)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it died before we could ask
        os.kill(os.getpid(), signal.SIGKILL)
    for kind, value in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_size),
    ):
        if value:
            resource.setrlimit(kind, (value, value))
    if not network:
        program = network_filter(platform.machine())
        if program is not None:
            prctl(PR_SET_NO_NEW_PRIVS, 1)
            prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(SockFprog(len(program) // 8, program)))


def main(arguments: list[str]) -> None:
    """Confine this process and become the program. Standard output and error are left to the program."""
    parent, address_space, cpu_seconds, file_size = (int(each) for each in arguments[:4])
    network, program = arguments[4], arguments[5:]
    # The parent blocks signals while it starts us, and ignores some; the program begins with neither.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        confine(parent, address_space, cpu_seconds, file_size, network == "yes")
        os.execvp(program[0], program)  # noqa: S606 (no shell)
    except OSError as error:
        print(f"cannot start {program[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
