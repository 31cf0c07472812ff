# SPDX-License-Identifier: Apache-2.0
"""Containers of an ordinary user whose scopes that user's own systemd makes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from support.bundles import BUSYBOX, COMMANDS, Result, eventually
from support.systemd import Systemd, why_not
from support.users import UID, rootless_spec

pytestmark = pytest.mark.root
RUNTIME_DIRECTORY = f"/run/user/{UID}"
HOME = "/tmp/user"
GROUP = "/user.slice/user-manager.service"
UNIT = f"""
[Service]
Type=notify
User={UID}
Slice=user.slice
Delegate=yes
KillMode=mixed
Environment=XDG_RUNTIME_DIR={RUNTIME_DIRECTORY}
ExecStart=/lib/systemd/systemd --user --unit=empty.target
"""


class User:
    """A user with a systemd, in the machine's."""

    def __init__(self, systemd: Systemd) -> None:
        self.systemd = systemd
        systemd(
            "sh", "-c", f"mkdir -p {RUNTIME_DIRECTORY}/systemd/user {HOME}/box/rootfs/bin {HOME}/box/rootfs/proc"
        )
        systemd("cp", BUSYBOX, f"{HOME}/box/rootfs/bin/busybox")
        for name in ("sleep", "sh", "cat"):
            systemd("ln", "-s", "busybox", f"{HOME}/box/rootfs/bin/{name}")
        self.write(f"{RUNTIME_DIRECTORY}/systemd/user/empty.target", "[Unit]\nDefaultDependencies=no\n")
        systemd("chown", "-R", f"{UID}:{UID}", RUNTIME_DIRECTORY, HOME)
        systemd("sh", "-c", f"echo 'boxes:x:{UID}:{UID}::{HOME}:/bin/sh' >> /etc/passwd; "
                            f"echo 'boxes:x:{UID}:' >> /etc/group")  # fmt: skip
        self.write("/run/systemd/system/user-manager.service", UNIT)
        systemd("systemctl", "daemon-reload")
        systemd("systemctl", "start", "user-manager.service")
        systemd(
            "sh",
            "-c",
            f"mkdir /sys/fs/cgroup{GROUP}/shell && chown {UID} /sys/fs/cgroup{GROUP}/shell/cgroup.procs",
        )

    def write(self, path: str, text: str) -> None:
        with open(f"{self.systemd.root}{path}", "w", encoding="utf-8") as file:
            file.write(text)

    def __call__(self, *command: str, check: bool = True, group: str = f"{GROUP}/shell") -> Result:
        """Run a command as the user, out of a unit of the user's systemd."""
        enter = f'echo $$ > /sys/fs/cgroup{group}/cgroup.procs; exec "$@"'
        return self.systemd(
            "sh", "-c", enter, "sh", "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups",
            "env", f"XDG_RUNTIME_DIR={RUNTIME_DIRECTORY}", f"HOME={HOME}", *command, check=check,
        )  # fmt: skip

    def runtime(self, *words: str, check: bool = True, group: str = f"{GROUP}/shell") -> Result:
        return self(
            COMMANDS["orlop-runc"], "--root", f"{HOME}/state", "--systemd-cgroup", *words, check=check, group=group
        )

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        out = self("systemctl", "--user", "show", unit, "-p", ",".join(properties)).out
        return dict(line.split("=", 1) for line in out.splitlines())

    def spec(self, path: str, **resources: object) -> None:
        spec = rootless_spec()
        spec["process"]["args"] = ["sleep", "100"]
        # Where this systemd's /proc has a file covered, a user may mount no other; with what there is, all works.
        proc = next(mount for mount in spec["mounts"] if mount["destination"] == "/proc")
        proc |= {"type": "bind", "source": "/proc", "options": ["rbind"]}
        spec["linux"]["cgroupsPath"] = path
        spec["linux"]["resources"] = resources
        spec["annotations"] = {"org.systemd.property.TimeoutStopSec": "7"}
        self.write(f"{HOME}/box/config.json", json.dumps(spec))


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    if reason := why_not("unified"):
        pytest.skip(reason)
    systemd = Systemd("unified")
    try:
        yield User(systemd)
    finally:
        systemd.close()


def limits(user: User) -> dict[str, object]:
    """Those that this machine's version 2 has controllers for."""
    with open(f"{user.systemd.root}/sys/fs/cgroup{GROUP}/cgroup.controllers", encoding="ascii") as file:
        has = file.read().split()
    wanted = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}, "cpu": {"quota": 50000, "period": 100000}}
    return {name: value for name, value in wanted.items() if name in has}


def test_life_of_a_users_scope(user: User) -> None:
    given = limits(user)
    user.spec(":box:mine", **given)
    user.runtime("run", "--detach", "--bundle", f"{HOME}/box", "mine")
    try:
        group = f"{GROUP}/user.slice/box-mine.scope"
        shown = user.show("box-mine.scope", "ActiveState", "Slice", "ControlGroup", "TimeoutStopUSec")
        assert shown == {
            "ActiveState": "active", "Slice": "user.slice", "ControlGroup": group, "TimeoutStopUSec": "7s",
        }  # fmt: skip
        state = json.loads(user.runtime("state", "mine").out)
        assert user.systemd.read(f"/proc/{state['pid']}/cgroup").endswith(f"0::{group}\n")
        if "pids" in given:
            assert user.show("box-mine.scope", "TasksMax", "MemoryMax") == {
                "TasksMax": "20", "MemoryMax": str(64 << 20),
            }  # fmt: skip
            assert user.systemd.read(f"/sys/fs/cgroup{group}/memory.max") == f"{64 << 20}\n"
            user.runtime("update", "--pids-limit", "30", "mine")
            assert user.show("box-mine.scope", "TasksMax") == {"TasksMax": "30"}
        assert "exec" in user.runtime("exec", "mine", "sh", "-c", "echo exec").out
        user.runtime("pause", "mine")
        assert json.loads(user.runtime("state", "mine").out)["status"] == "paused"
        user.runtime("resume", "mine")
        user("systemctl", "--user", "kill", "--signal=KILL", "box-mine.scope")
        eventually(lambda: json.loads(user.runtime("state", "mine").out)["status"] == "stopped", "it still runs")
    finally:
        user.runtime("delete", "--force", "mine")
    assert user.show("box-mine.scope", "LoadState") == {"LoadState": "not-found"}
    assert not os.path.exists(f"{user.systemd.root}/sys/fs/cgroup{group}")


def test_a_process_outside_of_the_users_units_may_not(user: User) -> None:
    user.spec(":box:not")
    refused = user.runtime("run", "--detach", "--bundle", f"{HOME}/box", "not", check=False, group="")
    assert refused.status == 1 and "systemd-run --user --scope" in refused.err
    assert user.show("box-not.scope", "LoadState") == {"LoadState": "not-found"}


def test_a_user_without_a_systemd_is_told(user: User) -> None:
    user.spec(":box:not")
    command = (
        COMMANDS["orlop-runc"],
        "--root",
        f"{HOME}/state",
        "--systemd-cgroup",
        "run",
        "--bundle",
        f"{HOME}/box",
        "not",
    )
    refused = user("env", "XDG_RUNTIME_DIR=/nonexistent", *command, check=False)
    assert refused.status == 1 and "cannot talk to systemd over D-Bus: no such file" in refused.err
