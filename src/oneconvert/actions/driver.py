"""The process behind ``remotes/datastore/oneconvert_<native>/<action>``: from arguments to exit status.

Here every failure becomes one sentence for the user; what a developer wants to know goes to the log.
"""

from __future__ import annotations

import logging
from typing import Callable

from oneconvert.errors import HandOverError, InterruptedBySignalError, OneconvertError
from oneconvert.jobs.log import log_nothing, log_to_file
from oneconvert.jobs.memory import keep_freed_memory
from oneconvert.jobs.signals import hold_signals, interruptible
from oneconvert.opennebula.document import Document
from oneconvert.opennebula.invocation import Invocation, read_invocation
from oneconvert.opennebula.native import VCENTER
from oneconvert.opennebula.results import expects_markers, write_error
from oneconvert.settings import Settings, read_settings

LOG = logging.getLogger(__name__)
FAILURE = 1

Action = Callable[[Invocation, Document, Settings], None]


def _action(invocation: Invocation) -> Action:
    """Raises HandOverError for an action that only a native driver would have."""
    # Each loads what it needs: libraries take up to half a second, and oned asks 'stat' for each image.
    if invocation.action == "cp":
        from oneconvert.actions.datastore import cp

        return cp
    if invocation.action == "stat":
        from oneconvert.actions.stat import stat

        return stat
    if invocation.native == VCENTER:
        from oneconvert.actions import vcenter

        actions: dict[str, Action] = {
            "rm": vcenter.rm,
            "mkfs": vcenter.mkfs,
            "clone": vcenter.clone,
            "monitor": vcenter.monitor,
            "export": vcenter.export,
            "snap_delete": vcenter.no_snapshots,
            "snap_revert": vcenter.no_snapshots,
            "snap_flatten": vcenter.no_snapshots,
        }
        if invocation.action in actions:
            return actions[invocation.action]
    raise HandOverError(f"OpenNebula has no driver {invocation.native} with the action {invocation.action}")


def main(program: str, arguments: list[str]) -> int:
    """Run one action and return its exit status."""
    invocation: Invocation | None = None
    document: Document | None = None
    try:
        hold_signals()
        keep_freed_memory()
        log_nothing()
        with interruptible(), open(0, "rb", closefd=False) as stdin:
            invocation = read_invocation(program, arguments, stdin)
        log_to_file(None, invocation.native, invocation.object_id)
        settings = read_settings(invocation.remotes)
        log_to_file(settings.log_file, invocation.native, invocation.object_id)
        document = Document.decode(invocation.payload)
        _action(invocation)(invocation, document, settings)
    except OneconvertError as error:
        LOG.error("%s", error.sentence)
        sentence, status = error.sentence, FAILURE
    except InterruptedBySignalError as error:
        LOG.error("%s", error)
        sentence, status = str(error), 128 + error.signum
    except Exception as error:
        LOG.exception("unexpected")
        sentence = f"oneconvert failed in an unexpected way ({type(error).__name__}); its log file has the details"
        status = FAILURE
    else:
        return 0
    markers = invocation is not None and expects_markers(document, invocation.remotes)
    write_error(sentence, markers)
    return status
