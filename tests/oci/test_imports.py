# SPDX-License-Identifier: Apache-2.0
"""What the commands that a shim waits for load: a slow import there is paid for at every container."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SLOW = {
    "argparse", "asyncio", "dataclasses", "logging", "subprocess", "json", "socket", "selectors", "threading",
    "tempfile", "shutil", "pathlib", "concurrent", "multiprocessing", "http", "email", "urllib", "unittest",
}  # fmt: skip


@pytest.mark.parametrize(
    "module",
    ["orlop.libcontainer", "orlop.runc.main", "orlop.runc.lifecycle", "orlop.runc.run", "orlop.runc.exec"],
)
def test_slow_modules_stay_out(module: str) -> None:
    script = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name.partition(".")[0] for name in set(loaded) - set(bare)} & _SLOW == set()


def test_msgspec_brings_nothing_that_is_not_used() -> None:
    script = (
        "import sys; from orlop.runc.main import _spare_imports; _spare_imports(); import orlop.runc.run; "
        "print(*(n for n, m in sys.modules.items() if getattr(m, '__spec__', None)))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert (
        set(loaded.split()) & {"uuid", "platform", "decimal", "_decimal", "textwrap", "typing_extensions"} == set()
    )


def test_the_entry_point_loads_no_command() -> None:
    script = "import orlop.runc.main, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [name for name in loaded if name.startswith(("orlop.libcontainer", "orlop.cgroups", "msgspec"))] == []
