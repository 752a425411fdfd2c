"""Where the executables below ``remotes/`` begin: ``python3 -I -m oneconvert.actions PROGRAM [ARGUMENT...]``."""

from __future__ import annotations

import os
import sys

# Somebody may have closed them. A file of ours in their place would get what is meant for oned.
for descriptor in (0, 1, 2):
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDONLY)

try:
    from oneconvert.actions.driver import main
except ImportError as error:
    # One line for oned, not a traceback.
    sys.exit(f"oneconvert is not completely installed ({error.name} is missing): run its install.sh again")

if __name__ == "__main__":
    # Everything is written and closed by now. To take the interpreter apart would take as long as to load half of it.
    os._exit(main(sys.argv[1], sys.argv[2:]))
