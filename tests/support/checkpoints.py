# SPDX-License-Identifier: Apache-2.0
"""Containers to checkpoint and restore, and whether there is a CRIU to do it with."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from support.bundles import Bundle, Runtime, eventually
from support.pace import PACE

# What it says in /word is of its memory: the same after a restore, another one in a new process.
REMEMBER = "word=$(cat /proc/sys/kernel/random/uuid); while :; do echo $word > /word; sleep 0.05; done"
COUNT = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.02; done"


def _criu_works() -> bool:
    criu = shutil.which("criu")
    return criu is not None and subprocess.run([criu, "check"], capture_output=True, check=False).returncode == 0


needs_criu = pytest.mark.skipif(not _criu_works(), reason="there is no CRIU that works with this kernel")


def start(runtime: Runtime, bundle: Bundle) -> str:
    """A container whose streams are none of the host's files, which CRIU could not write down."""
    if runtime.name == "crun" and "+CRIU" not in runtime("--version").out:
        pytest.skip("this crun is built without CRIU")
    container = runtime.new_id(bundle)
    bundle.write()
    subprocess.run(
        [*runtime.command, "--root", runtime.root, "run", "-d", "-b", bundle.path, container],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
        timeout=30 * PACE,
    )  # fmt: skip
    return container


def count(bundle: Bundle) -> int:
    """How far a container that runs `COUNT` has come."""
    with open(f"{bundle.rootfs}/count", encoding="utf-8") as file:
        return int(file.read() or 0)


def counting(bundle: Bundle, floor: int = 3) -> None:
    """Wait until it has come beyond `floor`."""
    eventually(
        lambda: os.path.exists(f"{bundle.rootfs}/count") and count(bundle) > floor, "it does not count", timeout=30
    )


def restore(runtime: Runtime, bundle: Bundle, images: str, container: str, *flags: str) -> None:
    """Bring a container back."""
    runtime("restore", "--detach", "--bundle", bundle.path, "--image-path", images, *flags, container).ok()
