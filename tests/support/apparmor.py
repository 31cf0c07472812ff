# SPDX-License-Identifier: Apache-2.0
"""Whether the kernel runs AppArmor, and can be given profiles."""

import shutil
from pathlib import Path

import pytest

_ENABLED = Path("/sys/module/apparmor/parameters/enabled")


def _why_not() -> str:
    if not _ENABLED.exists() or _ENABLED.read_text(encoding="ascii") != "Y\n":
        return "this kernel runs no AppArmor: that of tests/vm/run does"
    return "" if shutil.which("apparmor_parser") else "apparmor_parser is not installed"


needs_apparmor = pytest.mark.skipif(_why_not() != "", reason=_why_not())
