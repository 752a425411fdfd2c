"""An action starts soon: oned calls many."""

from __future__ import annotations

import subprocess
import sys


def runs(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_expressions_for_passwords_are_compiled_and_the_library_is_whole_for_others() -> None:
    runs(
        "import sys, oneconvert.images.inspect\n"
        "assert 'oslo_utils.strutils' not in sys.modules\n"
        "from oslo_utils.imageutils import QemuImgInfo\n"
    )


def test_what_few_images_need_is_loaded_for_them() -> None:
    runs(
        "import sys, oneconvert.actions.driver, oneconvert.actions.datastore\n"
        "few = {'requests', 'urllib3', 'pyone', 'pyVmomi', 'inflate64', 'oneconvert.vcenter'}\n"
        "assert not few & set(sys.modules), few & set(sys.modules)\n"
    )
