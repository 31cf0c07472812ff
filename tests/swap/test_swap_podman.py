# SPDX-License-Identifier: Apache-2.0
"""What podman and conmon make of our runtime, beside what they make of Debian's."""

from __future__ import annotations

import os

import pytest
from support.bundles import COMMANDS
from support.swap.cells import podman
from support.swap.podman import PODMAN

pytestmark = [pytest.mark.root, pytest.mark.original]


def test_an_out_of_memory_kill_is_told_as_over_runc() -> None:
    """With control groups of version 1 Debian's conmon does not tell of one, whatever the runtime."""
    if not os.path.exists(PODMAN):
        pytest.skip("podman is not installed")
    seen = {}
    for name in ("runc", "orlop-runc"):
        engine = podman(COMMANDS[name])
        try:
            seen[name] = engine.run_out_of_memory("oom", "a=xxxxxxxx; while :; do a=$a$a; done")
            assert seen[name] == (137, engine.tells_oom), name
        finally:
            engine.close()
    assert seen["orlop-runc"] == seen["runc"]
