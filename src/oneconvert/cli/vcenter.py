"""``oneconvert vcenter``: options, questions at a terminal, and what is said."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from oneconvert.errors import OptionError
from oneconvert.jobs.log import log_nothing
from oneconvert.jobs.signals import hold_signals
from oneconvert.settings import opennebula_directories, read_settings

# Those of oneconvert.vcenter.placement. That needs pyVmomi, which takes its time, also for who asks for help.
CONTROLLERS = ("pvscsi", "lsilogic", "lsilogicsas", "buslogic")
MEMORY_UNIT = 4
"""MiB; vSphere takes multiples of it only."""


def add_subcommands(subcommands: Any) -> None:
    """Add ``vcenter`` to what ``add_subparsers`` of argparse gave."""
    vcenter = subcommands.add_parser("vcenter", help="work with images in a vCenter")
    group = vcenter.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    template = group.add_parser(
        "template",
        help="make a VM template for an image in a vCenter",
        description="Makes an empty template in the vCenter of an image, and a VM template of OpenNebula that refers "
        "to it and to the image; prints the id of the VM template. Called again it makes nothing, and prints the same.",
    )
    add = template.add_argument
    add("--image", type=_number, metavar="ID", required=True, help="image of OpenNebula, in a datastore of the vCenter")
    add("--name", type=_text, help="of both templates (default: that of the image)")
    add("--guest", type=_text, metavar="ID", help="guest system, an id of vSphere (default: otherGuest64)")
    add("--firmware", choices=("bios", "efi"), help="what the image boots with (default: bios)")
    add(
        "--controller", choices=CONTROLLERS, help="of the disks (default: what vSphere recommends for the guest system)"
    )
    add("--cluster", type=_text, metavar="NAME", help="cluster that reaches the datastore (default: the only one)")
    add(
        "--pool", type=_text, metavar="PATH", help="resource pool for the virtual machines (default: the cluster's own)"
    )
    folder = "folder of the template and its virtual machines, made if it is not there (default: the datacenter's)"
    add("--folder", type=_text, metavar="PATH", help=folder)
    add("--cpu", type=_cpus, metavar="N", default=1, help="CPUs (default: 1)")
    add("--memory", type=_memory, metavar="MIB", default=1024, help="memory in MiB (default: 1024)")
    add("--network", type=_text, metavar="NAME", help="virtual network of OpenNebula, by name or id (default: none)")
    add("--dry-run", action="store_true", help="say what would be made, and make nothing")
    template.set_defaults(run=make_template)


def make_template(options: argparse.Namespace) -> int:
    """``oneconvert vcenter template``. Raises OneconvertError, and InterruptedBySignalError where nothing is left."""
    hold_signals()
    log_nothing()
    from oneconvert.actions.vcenter_template import Wishes, make_vm_template

    wishes = Wishes(
        image_id=options.image,
        name=options.name,
        guest=options.guest,
        firmware=options.firmware,
        controller=options.controller,
        cluster=options.cluster,
        pool=options.pool,
        folder=options.folder or "",
        network=options.network,
        cpus=options.cpu,
        memory=options.memory,
        dry_run=options.dry_run,
    )
    settings = read_settings(opennebula_directories()[0] / "remotes")
    made = make_vm_template(wishes, settings, Terminal())
    if made is not None:
        sys.stdout.write(f"{made}\n")
    return 0


class Terminal:
    """Who sits at the terminal; or nobody, in a script."""

    def tell(self, line: str) -> None:
        """Write a line to standard error."""
        sys.stderr.write("".join(c if c.isprintable() else " " for c in line) + "\n")
        sys.stderr.flush()

    def choose(self, what: str, option: str, choices: Sequence[str], default: int | None) -> int:
        """Ask which; where nobody can be asked, the default. Raises OptionError where there is none."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            if default is None:
                raise OptionError(f"there is more than one {what}; choose with {option}: {', '.join(choices)}")
            return default
        for number, choice in enumerate(choices, 1):
            self.tell(f"  {number}  {choice}")
        usual = "" if default is None else f" [{default + 1}]"
        while True:
            sys.stderr.write(f"Which {what}?{usual} ")
            sys.stderr.flush()
            line = sys.stdin.readline()
            answer = line.strip()
            if not line:
                raise OptionError(f"no {what} was chosen; choose with {option}: {', '.join(choices)}")
            if not answer and default is not None:
                return default
            if answer in choices:
                return choices.index(answer)
            if answer.isascii() and answer.isdecimal() and 1 <= int(answer) <= len(choices):
                return int(answer) - 1


def _text(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError("a text of printable characters")
    return text.strip()


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise argparse.ArgumentTypeError("a number")
    return int(text)


def _cpus(text: str) -> int:
    cpus = _number(text)
    if not cpus:
        raise argparse.ArgumentTypeError("one or more")
    return cpus


def _memory(text: str) -> int:
    memory = _number(text)
    if not memory or memory % MEMORY_UNIT:
        raise argparse.ArgumentTypeError(f"a number of MiB, a multiple of {MEMORY_UNIT}")
    return memory
