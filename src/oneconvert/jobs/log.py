"""The log of details, in a file of ours: on standard error every line would become part of oned's error message."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from oneconvert.settings import opennebula_directories

FORMAT = "%(asctime)s [{label}] %(levelname)s %(message)s"


def log_nothing() -> None:
    """Without a handler, Python's logging would write to standard error."""
    logging.raiseExceptions = False
    root = logging.getLogger()
    root.handlers = [logging.NullHandler()]
    root.setLevel(logging.INFO)
    # It repeats URLs, with all that may be secret in them.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def log_to_file(path: Path | None, driver: str, object_id: str) -> None:
    """Send all logging to ``path``, or to oneconvert.log in OpenNebula's log directory.

    Without a file that can be written there is no log: an import does not fail for that.
    """
    try:
        file = path or opennebula_directories()[2] / "oneconvert.log"
        handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace", delay=path is None)
    except OSError:
        return
    label = f"{os.getpid()} {driver} {object_id}".replace("%", "%%")
    handler.setFormatter(logging.Formatter(FORMAT.format(label=label)))
    logging.getLogger().handlers = [handler]
