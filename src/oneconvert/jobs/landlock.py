"""Landlock: a process gives up, for itself and for what it starts, all files but those below some directories.

Source: Documentation/userspace-api/landlock.rst and include/uapi/linux/landlock.h of Linux, 5.13 and later. No
privilege is needed. Standard library only: this runs before the site packages are there.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

# System calls have the same numbers on all machines (asm-generic/unistd.h).
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1
PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_FILE, MAKE_REG = 1 << 5, 1 << 8
# What each version of the interface knows: 13 rights at first, then REFER, TRUNCATE and IOCTL_DEV.
RIGHTS_BY_VERSION = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
TRUNCATE = 1 << 14
READ_ONLY = EXECUTE | READ_FILE | READ_DIR
READ_WRITE = READ_FILE | READ_DIR | WRITE_FILE | REMOVE_FILE | MAKE_REG | TRUNCATE
# The rights that a rule on something that is no directory may have.
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | 1 << 15


class RulesetAttr(ctypes.Structure):
    """``struct landlock_ruleset_attr``, the part of version 1."""

    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class PathBeneathAttr(ctypes.Structure):
    """``struct landlock_path_beneath_attr``."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """The version of the kernel's interface; 0 where it has none or it is switched off."""
    return max(0, int(_libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), CREATE_RULESET_VERSION)))


def restrict(read_only: Iterable[str], read_write: Iterable[str]) -> bool:
    """Leave this process the files at and below these paths only; paths that do not exist are passed over.

    False where the kernel cannot. Raises OSError when it should but does not.
    """
    known = version()
    if not known:
        return False
    handled = sum(rights for since, rights in RIGHTS_BY_VERSION if known >= since)
    libc = _libc()
    attribute = RulesetAttr(handled)
    ruleset = _checked(libc.syscall(CREATE_RULESET, ctypes.byref(attribute), ctypes.c_size_t(8), 0))
    try:
        for paths, rights in ((read_only, READ_ONLY), (read_write, READ_WRITE)):
            for path in paths:
                _allow(libc, ruleset, path, rights & handled)
        _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(each) for each in (1, 0, 0, 0))))
        _checked(libc.syscall(RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):  # noqa: PTH112 (pathlib takes a while to import)
            rights &= FILE_RIGHTS
        rule = PathBeneathAttr(rights, descriptor)
        _checked(libc.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(descriptor)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
