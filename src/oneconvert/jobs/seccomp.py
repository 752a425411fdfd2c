"""seccomp: a process gives up, for itself and for what it starts, making sockets.

Source: Documentation/userspace-api/seccomp_filter.rst, include/uapi/linux/{seccomp,filter,audit}.h. No privilege is
needed. Standard library only: this runs before the site packages are there.
"""

from __future__ import annotations

import ctypes
import os
import struct

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
    """``struct sock_fprog``."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def give_up_sockets() -> bool:
    """Make socket(2) and io_uring_setup(2) fail with EPERM from now on.

    False on a machine whose system call numbers are not in the table. Raises OSError when the kernel refuses.
    """
    program = _filter(os.uname().machine)
    if program is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    pointer = ctypes.byref(SockFprog(len(program) // 8, program))
    zero = ctypes.c_ulong(0)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero),
        (PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), pointer, zero, zero),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return True


def _filter(machine: str) -> bytes | None:
    """A classic BPF program."""
    if machine not in ARCHITECTURES:
        return None
    arch, socket_number = ARCHITECTURES[machine]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
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
