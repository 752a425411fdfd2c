"""An action starts soon: oned calls many."""

from __future__ import annotations

import subprocess
import sys


def test_no_expressions_for_passwords_are_compiled_and_the_library_is_whole_for_others() -> None:
    code = (
        "import sys, oneconvert.images.inspect\n"
        "assert 'oslo_utils.strutils' not in sys.modules\n"
        "from oslo_utils.imageutils import QemuImgInfo\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
