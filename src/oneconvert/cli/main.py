"""The command line: one function per subcommand, errors as one sentence."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from oneconvert.cli import vcenter
from oneconvert.errors import InterruptedBySignalError, OneconvertError, SettingsError
from oneconvert.opennebula.invocation import PREFIX
from oneconvert.opennebula.oned_conf import lines_to_add
from oneconvert.settings import opennebula_directories


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``oneconvert`` with ``arguments``, by default the process's own, and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except OneconvertError as error:
        sys.stderr.write(f"oneconvert: {error.sentence}\n")
        return 1
    except InterruptedBySignalError as error:
        sys.stderr.write(f"oneconvert: interrupted by {signal.Signals(error.signum).name}\n")
        return 128 + error.signum
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="oneconvert", description="Stores every image in the format its datastore speaks."
    )
    parser.add_argument("--version", action="version", version=f"oneconvert {version('oneconvert')}")
    subcommands = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)

    oned_conf = subcommands.add_parser(
        "oned-conf",
        help="print the lines that oned.conf needs",
        description="Prints the lines that oned.conf needs, and lacks, for the oneconvert drivers. Changes nothing.",
    )
    oned_conf.add_argument(
        "--drivers",
        type=_driver_names,
        metavar="LIST",
        help="native drivers, separated by commas (default: those that oneconvert is installed for)",
    )
    oned_conf.add_argument("--file", type=Path, metavar="PATH", help="another oned.conf than OpenNebula's own")
    oned_conf.set_defaults(run=print_oned_conf)
    vcenter.add_subcommands(subcommands)
    return parser


def print_oned_conf(options: argparse.Namespace) -> int:
    """``oneconvert oned-conf``: print what to add to oned.conf, also where there is none yet.

    Raises SettingsError when the file cannot be read or understood, or when there is no driver to print lines for.
    """
    var, etc, _ = opennebula_directories()
    natives = options.drivers or _installed_drivers(var / "remotes" / "datastore")
    if not natives:
        raise SettingsError("no oneconvert driver is installed; name the native drivers with --drivers")
    path: Path = options.file or etc / "oned.conf"
    try:
        text: str | None = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        if options.file or not isinstance(error, FileNotFoundError):
            raise SettingsError(f"cannot read {path}: {error.strerror}") from None
        text = None
    sys.stdout.write(lines_to_add(text, natives, str(path)))
    return 0


def _driver_names(text: str) -> list[str]:
    """Native names from a list separated by commas; ``oneconvert_fs`` is taken for ``fs``."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("a list as in fs,ceph")
    return [name[len(PREFIX) :] if name.startswith(PREFIX) else name for name in names]


def _installed_drivers(datastore: Path) -> list[str]:
    return sorted(path.parent.name[len(PREFIX) :] for path in datastore.glob(f"{PREFIX}*/cp"))
