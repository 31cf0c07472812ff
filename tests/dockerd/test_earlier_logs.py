# SPDX-License-Identifier: Apache-2.0
"""Logs of earlier runs, logs that outlive their container, and rotation without being asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import containerd

from orlop.dockerd.logging.options import Rotation, check_log_config, rotation
from orlop.engine.types import LogConfig
from orlop.errdefs import InvalidArgumentError

if TYPE_CHECKING:
    from support.stack import Stack

pytestmark = pytest.mark.root
ORLOP = str(Path(sys.executable).with_name("orlop"))


def logs(stack: Stack, *flags: str) -> containerd.Result:
    return containerd.run([ORLOP, "logs", *flags], env=stack.environment())


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_the_run_before(stack: Stack, driver: str) -> None:
    script = "echo run $(cat /n); echo e$(cat /n) >&2; echo x >> /n"
    stack.docker("run", "--name", "box", "--log-driver", driver, "busybox", "sh", "-c", script).ok()
    refused = logs(stack, "--previous", "box")
    assert (refused.status, "has had no earlier run" in refused.err) == (1, True)
    stack.docker("start", "-a", "box").ok()
    stack.docker("start", "-a", "box").ok()
    before = logs(stack, "--previous", "box")
    assert (before.out, before.err) == ("run x\n", "ex\n")
    last = logs(stack, "-p", "--tail", "1", "box")
    assert last.out + last.err in ("run x\n", "ex\n")
    follow = logs(stack, "-p", "-f", "box")
    assert "cannot be followed" in follow.err


def test_a_log_outlives_its_container(stack: Stack) -> None:
    for number in (1, 2):
        stack.docker(
            "run", "--rm", "--name", "job", "--log-opt", "keep=1h", "busybox", "echo", f"job {number}"
        ).ok()
    assert stack.docker("inspect", "job").status != 0
    assert logs(stack, "job").out == "job 2\n"
    kept = list(Path(stack.data_root, "kept-logs").iterdir())
    assert len(kept) == 2
    first = next(each.name for each in kept if "job 1" in (each / f"{each.name}-json.log").read_text())
    assert logs(stack, first[:12]).out == "job 1\n"
    stack.docker("run", "--name", "job", "busybox", "echo", "job 3").ok()
    assert logs(stack, "job").out == "job 3\n"
    assert logs(stack, "--previous", "job").out == "job 2\n"
    stack.docker("rm", "job").ok()
    assert len(list(Path(stack.data_root, "kept-logs").iterdir())) == 2  # the third did not ask for it


def test_kept_logs_expire(stack: Stack) -> None:
    stack.docker("run", "--rm", "--name", "short", "--log-opt", "keep=1ms", "busybox", "echo", "gone").ok()
    stack.docker("run", "--rm", "-t", "--name", "long", "--log-opt", "keep=1h", "busybox", "echo", "there").ok()
    stack.stop()
    stack.start()
    assert logs(stack, "short").status == 1
    assert logs(stack, "long").out == "there\n"
    kept = Path(stack.data_root, "kept-logs").iterdir()
    names = {json.loads((each / "about.json").read_text())["record"]["name"] for each in kept}
    assert "long" in names
    assert "short" not in names


@pytest.mark.parametrize(("driver", "options", "expected"), [
    ("json-file", {}, Rotation(100_000_000, 5, False)),
    ("json-file", {"max-size": "-1"}, Rotation(0, 1, False)),
    ("json-file", {"max-size": "1m"}, Rotation(1_000_000, 1, False)),
    ("json-file", {"compress": "true"}, Rotation(100_000_000, 5, True)),
    ("local", {}, Rotation(20_000_000, 5, True)),
])  # fmt: skip
def test_rotation_without_being_asked_for(driver: str, options: dict[str, str], expected: Rotation) -> None:
    assert rotation(LogConfig(type=driver, config=options)) == expected


@pytest.mark.parametrize(("driver", "value", "message"), [
    ("json-file", "5", "invalid value for keep: 5: expected a duration such as 72h"),
    ("none", "5h", "log opt 'keep': with the log driver none there is no log to be kept"),
])  # fmt: skip
def test_wrong_wishes(driver: str, value: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        check_log_config(LogConfig(type=driver, config={"keep": value}))
