"""oslo.utils' inspectors, without the rest of the package that they are in.

Whoever imports that has hundreds of regular expressions compiled, which hide passwords in logs: a tenth of the time
that an action takes to start. So the package is known, but not executed, while its module of inspectors is loaded.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec

PACKAGE = "oslo_utils.imageutils"

_spec = None if PACKAGE in sys.modules else find_spec(PACKAGE)
if _spec:
    sys.modules[PACKAGE] = module_from_spec(_spec)
try:
    from oslo_utils.imageutils.format_inspector import (
        CaptureRegion,
        EndCaptureRegion,
        FileInspector,
        GPTInspector,
        ISOInspector,
        QcowInspector,
        QEDInspector,
        SafetyCheck,
        SafetyViolation,
        VDIInspector,
        VHDInspector,
        VHDXInspector,
        VMDKInspector,
    )
finally:
    if _spec:
        del sys.modules[PACKAGE]

__all__ = (
    "CaptureRegion",
    "EndCaptureRegion",
    "FileInspector",
    "GPTInspector",
    "ISOInspector",
    "QEDInspector",
    "QcowInspector",
    "SafetyCheck",
    "SafetyViolation",
    "VDIInspector",
    "VHDInspector",
    "VHDXInspector",
    "VMDKInspector",
)
