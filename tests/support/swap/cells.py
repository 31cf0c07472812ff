# SPDX-License-Identifier: Apache-2.0
"""The swap matrix: which layers stand on which, in the order of docs/swap.md."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from support.dockerd_original import OriginalDockerd
from support.stack import DOCKER, Stack
from support.swap.ctr import Ctr
from support.swap.docker import DockerLike
from support.swap.engine import Engine
from support.swap.podman import Podman

from orlop import cgroups

_BIN = Path(sys.executable).parent
ORLOP, ORLOP_RUNC = str(_BIN / "orlop"), str(_BIN / "orlop-runc")
OUR_SHIM = ("--runtime", "io.containerd.orlop.v2")
RUNC_SHIM = ("--runtime", "io.containerd.runc.v2")


class Cell(NamedTuple):
    """One cell: its number in the table, what stands on what, and how to build it."""

    number: str
    layers: str
    build: Callable[[], Engine]


def _ctr(client: str, containerd: str, *flags: str, **environment: str) -> Callable[[], Engine]:
    return lambda: Ctr(client, containerd, flags, environment)


def _orlopd(containerd: str, runtime: str, configuration: str = "{}") -> Callable[[], Engine]:
    def build() -> Engine:
        stack = Stack(containerd, runtime=runtime, configuration=configuration)
        return DockerLike([DOCKER], stack.__enter__())

    return build


def _dockerd(containerd: str, *flags: str, client: str = DOCKER) -> Callable[[], Engine]:
    def build() -> Engine:
        engine = DockerLike([client], OriginalDockerd(containerd, flags))
        engine.keeps_output = False  # it copies output itself
        return engine

    return build


def podman(runtime: str = ORLOP_RUNC) -> Engine:
    """podman's service with conmon and this runtime below it."""
    service = Podman(runtime)
    engine = DockerLike(service.client, service, service.flags)
    # Debian's conmon does not see it with control groups of version 1, over runc neither.
    engine.tells_oom = cgroups.mode() == "v2"
    engine.on_containerd = engine.watches_shim = False
    engine.top = ("hpid",)
    return engine


def _runtime(path: str | None) -> str:
    return json.dumps({"runtimes": {"under": {"path": path or ""}}})


def _over_crun() -> Engine:
    engine = _orlopd("orlop", "under", _runtime(_crun()))()
    engine.missing_program = (125,)  # docker knows runc's words for it, not crun's
    return engine


def _crun() -> str | None:
    """crun as it can be run here."""
    crun = shutil.which("crun")
    hybrid = crun and os.path.ismount("/sys/fs/cgroup/unified")
    return os.path.join(os.path.dirname(__file__), "crun-version-1") if hybrid else crun


CELLS = [
    Cell("1", "docker, dockerd / orlop-containerd / shim-runc-v2, runc", _dockerd("orlop")),
    Cell("2", "ctr / orlop-containerd / shim-orlop-v2", _ctr("original", "orlop", *OUR_SHIM)),
    Cell("3", "docker / orlopd / containerd, shim-runc-v2, runc", _orlopd("original", "runc")),
    Cell("4", "orlop-ctr / containerd, shim-runc-v2, runc", _ctr("orlop", "original", *RUNC_SHIM)),
    Cell("5", "ctr, containerd / shim-orlop-v2", _ctr("original", "original", *OUR_SHIM)),
    Cell("6", "orlop-ctr, orlop-containerd / shim-runc-v2, runc", _ctr("orlop", "orlop", *RUNC_SHIM)),
    Cell(
        "7-runc",
        "docker / orlopd, orlop-containerd, shim-orlop-v2 / runc",
        _orlopd("orlop", "under", _runtime(shutil.which("runc"))),
    ),
    Cell(
        "7-crun",
        "docker / orlopd, orlop-containerd, shim-orlop-v2 / crun",
        _over_crun,
    ),
    Cell(
        "8",
        "ctr, containerd, shim-runc-v2 / orlop-runc",
        _ctr("original", "original", *RUNC_SHIM, "--runc-binary", ORLOP_RUNC),
    ),
    Cell(
        "9",
        "docker, dockerd, containerd, shim-runc-v2 / orlop-runc",
        _dockerd("original", "--add-runtime", f"under={ORLOP_RUNC}", "--default-runtime", "under"),
    ),
    Cell("10", "podman, conmon / orlop-runc", podman),
    Cell("11-docker", "docker / orlopd, orlop-containerd, shim-orlop-v2", _orlopd("orlop", "orlop")),
    Cell("11-orlop", "orlop / dockerd, containerd, shim-runc-v2, runc", _dockerd("original", client=ORLOP)),
]
