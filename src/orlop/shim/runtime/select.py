# SPDX-License-Identifier: Apache-2.0
"""Which Runtime driver serves a container."""

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from orlop.shim.runtime import Options, Runtime

if TYPE_CHECKING:
    from orlop.api.runc_options_pb2 import Options as RuncOptions
    from orlop.shim.loop import Loop
    from orlop.shim.reaper import Reaper
    from orlop.shim.runtime.helper import EarlyHelper

IN_PROCESS_ROOT = "/run/orlop/runc"
BINARY_ROOT = "/run/containerd/runc"

RUNTIME_VARIABLE = "ORLOP_SHIM_RUNTIME"
"""Environment: the runtime command for tasks whose options name none."""
ROOT_VARIABLE = "ORLOP_SHIM_RUNTIME_ROOT"
"""Environment: the state directory of runtimes for tasks whose options name none."""

RuntimeFor = Callable[["RuncOptions", str, str, str, "Loop", "Reaper", "EarlyHelper | None"], Runtime]
"""What `runtime_for` is."""

_MEMORY = "runtime.json"


def runtime_for(
    options: "RuncOptions",
    container_id: str,
    bundle: str,
    namespace: str,
    loop: "Loop",
    reaper: "Reaper",
    early: "EarlyHelper | None" = None,
) -> Runtime:
    """The driver that the task's options select: a command by `binary_name`, libcontainer otherwise.

    A choice that is not the default is written to the bundle, for `remembered_runtime`.
    """
    command = options.binary_name or os.environ.get(RUNTIME_VARIABLE, "")
    default = BINARY_ROOT if command else IN_PROCESS_ROOT
    root = options.root or os.environ.get(ROOT_VARIABLE, "") or default
    chosen = Options(
        root=f"{root}/{namespace}",
        no_pivot_root=options.no_pivot_root,
        no_new_keyring=options.no_new_keyring,
        systemd_cgroup=options.systemd_cgroup,
    )
    if command or root != default:
        with open(f"{bundle}/{_MEMORY}", "w", encoding="utf-8") as file:
            json.dump({"command": command, "root": chosen.root, "systemd_cgroup": chosen.systemd_cgroup}, file)
    return _driver(command, chosen, container_id, bundle, loop, reaper, early)


def remembered_runtime(bundle: str, container_id: str, namespace: str, loop: "Loop", reaper: "Reaper") -> Runtime:
    """The driver that a container was made with, for whoever cleans up after a shim that is gone."""
    try:
        with open(f"{bundle}/{_MEMORY}", encoding="utf-8") as file:
            kept = json.load(file)
    except FileNotFoundError:
        kept = {"command": "", "root": f"{IN_PROCESS_ROOT}/{namespace}", "systemd_cgroup": False}
    chosen = Options(root=kept["root"], systemd_cgroup=kept["systemd_cgroup"])
    return _driver(kept["command"], chosen, container_id, bundle, loop, reaper)


def _driver(
    command: str,
    chosen: Options,
    container_id: str,
    bundle: str,
    loop: "Loop",
    reaper: "Reaper",
    early: "EarlyHelper | None" = None,
) -> Runtime:
    if command:
        if early is not None:
            early.close()
        from orlop.shim.runtime.binary import BinaryRuntime

        return BinaryRuntime(command, container_id, bundle, chosen, loop, reaper)
    from orlop.shim.runtime.inprocess import InProcessRuntime

    return InProcessRuntime(container_id, bundle, chosen, loop, reaper, early)
