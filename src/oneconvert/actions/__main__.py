"""Where the executables below ``remotes/`` begin: ``python3 -I -m oneconvert.actions PROGRAM [ARGUMENT...]``."""

from __future__ import annotations

import sys

try:
    from oneconvert.actions.driver import main
except ImportError as error:
    # One line for oned, not a traceback.
    sys.exit(f"oneconvert is not completely installed ({error.name} is missing): run its install.sh again")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
