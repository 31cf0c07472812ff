# SPDX-License-Identifier: Apache-2.0
"""Named points at which a test lets the daemon die or an operation fail; without ORLOP_FAILPOINTS they do nothing.

    ORLOP_FAILPOINTS="task.create.after_bundle=kill,gc.after_record=kill:3" orlop-containerd …

`kill` is SIGKILL of the daemon by itself, `fail` an InternalError out of the point; `:3` is the third time that
the point is reached (the first, if it is left out). Each point stands in the code behind a step that a crash may
separate from the next one, as `failpoint("snapshot.remove.after_record")`, and in POINTS.
"""

import os
import signal
import threading
from collections.abc import Callable

from orlop.errdefs import InternalError, InvalidArgumentError

VARIABLE = "ORLOP_FAILPOINTS"

# Which exist, in the order in which an operation comes by.
POINTS = (
    "content.write.after_record",
    "content.write.after_open",
    "content.write.after_data",
    "content.commit.after_sync",
    "content.commit.before_rename",
    "content.commit.after_rename",
    "content.commit.after_record",
    "content.abort.after_record",
    "content.abort.after_discard",
    "content.delete.after_record",
    "snapshot.prepare.after_insert",
    "snapshot.prepare.after_staging",
    "snapshot.prepare.after_directory",
    "snapshot.prepare.after_record",
    "snapshot.commit.after_update",
    "snapshot.commit.after_record",
    "snapshot.remove.after_record",
    "snapshot.remove.after_hide",
    "snapshot.remove.after_delete",
    "snapshot.remote.after_prepare",
    "snapshot.remote.after_commit",
    "diff.apply.after_send",
    "diff.apply.after_worker",
    "diff.compare.after_data",
    "diff.compare.after_commit",
    "image.create.after_record",
    "image.delete.after_record",
    "lease.create.after_record",
    "lease.delete.after_record",
    "container.create.after_insert",
    "container.create.after_record",
    "container.delete.after_record",
    "sandbox.create.after_record",
    "sandbox.create.after_shim",
    "sandbox.shutdown.after_call",
    "mount.activate.after_record",
    "mount.activate.after_mount",
    "mount.deactivate.after_unmount",
    "task.create.after_directory",
    "task.create.after_bundle",
    "task.create.after_intent",
    "task.create.after_shim",
    "task.create.after_bootstrap",
    "task.create.after_connect",
    "task.create.after_call",
    "task.start.before_call",
    "task.start.after_call",
    "task.exec.before_call",
    "task.exec.after_call",
    "task.kill.after_call",
    "task.delete_process.after_call",
    "task.delete.before_call",
    "task.delete.after_call",
    "task.delete.after_shutdown",
    "task.delete.after_hide",
    "task.delete.after_bundle",
    "task.bury.after_clean_up",
    "task.bury.after_bundle",
    "gc.after_sweep",
    "gc.after_record",
    "gc.after_files",
    "start.after_storage",
    "start.after_load",
)


def _parse(text: str) -> dict[str, tuple[str, int]]:
    points: dict[str, tuple[str, int]] = {}
    for item in filter(None, text.split(",")):
        name, _, rest = item.partition("=")
        action, _, count = rest.partition(":")
        if name not in POINTS:
            raise InvalidArgumentError(f"{VARIABLE}: there is no point {name!r}")
        if action not in ("kill", "fail") or not (count or "1").isdigit():
            raise InvalidArgumentError(f"{VARIABLE}: {name}: expected kill or fail and maybe :count, got {rest!r}")
        points[name] = action, int(count or "1")
    return points


def _ignore(name: str) -> None:
    """No points are set."""


def armed(text: str) -> Callable[[str], None]:
    """The function for the points that `text` names. Raises InvalidArgumentError that says what is wrong."""
    points = _parse(text)
    lock = threading.Lock()  # points are reached in worker threads too

    def reach(name: str) -> None:
        with lock:
            action, left = points.get(name, ("", 0))
            if not action:
                return
            points[name] = action, left - 1
        if left != 1:
            return
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise InternalError(f"failpoint {name}")

    return reach


failpoint = armed(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else _ignore
