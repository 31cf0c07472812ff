# SPDX-License-Identifier: Apache-2.0
"""`orlop daemon install` and `uninstall`: the plans, and what they leave when something is in the way."""

from pathlib import Path

import pytest

from orlop.activation import installation
from orlop.activation.installation import Remove, Run, Write
from orlop.errdefs import ConflictError, NotFoundError


def plan(directory: Path, *, group: bool = True) -> list[installation.Step]:
    return installation.install_plan(lambda name: f"/bin/{name}", group=group, directory=str(directory))


def text_of(steps: list[installation.Step], name: str) -> list[str]:
    return next(
        step.text for step in steps if isinstance(step, Write) and step.path.endswith(f"/{name}")
    ).splitlines()


def test_units_name_the_commands_by_their_path(tmp_path: Path) -> None:
    steps = plan(tmp_path)
    assert "ExecStart=/bin/orlopd -H fd://" in text_of(steps, "orlop.service")
    assert "ExecStart=/bin/orlop-containerd" in text_of(steps, "orlop-containerd.service")
    assert "ExecStart=/bin/orlop-netd --standby" in text_of(steps, "orlop-netd.service")
    assert [step.argv[1] for step in steps if isinstance(step, Run)] == ["daemon-reload", "enable", "start"]


def test_without_the_group_the_socket_is_for_root_alone(tmp_path: Path) -> None:
    lines = text_of(plan(tmp_path), "orlop.socket")
    assert "SocketGroup=docker" in lines and "SocketMode=0660" in lines
    lines = text_of(plan(tmp_path, group=False), "orlop.socket")
    assert not any(line.startswith("SocketGroup") for line in lines) and "SocketMode=0600" in lines


def test_carried_out_and_taken_back(tmp_path: Path) -> None:
    ran: list[list[str]] = []
    steps = plan(tmp_path)
    installation.check(steps)
    installation.perform(steps, ran.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(installation.UNITS)
    installation.check(steps)  # again, as after an upgrade
    away = installation.uninstall_plan(str(tmp_path))
    installation.check(away)
    installation.perform(away, ran.append)
    assert list(tmp_path.iterdir()) == []
    assert ran[-1] == ["systemctl", "daemon-reload"]
    with pytest.raises(NotFoundError, match=r"orlop.socket: no such unit: nothing is installed"):
        installation.check(away)


def test_a_command_that_fails_leaves_no_unit(tmp_path: Path) -> None:
    def fail(argv: list[str]) -> None:
        raise OSError(argv[1])

    with pytest.raises(OSError, match="daemon-reload"):
        installation.perform(plan(tmp_path), fail)
    assert list(tmp_path.iterdir()) == []


def test_units_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "orlop.service").write_text("[Service]\n")
    for steps in (plan(tmp_path), [Remove(str(tmp_path / "orlop.service"))]):
        with pytest.raises(ConflictError, match=r"orlop.service was not made by `orlop daemon install`"):
            installation.check(steps)


def test_a_plan_is_shown(tmp_path: Path) -> None:
    shown = installation.show([*plan(tmp_path), *installation.uninstall_plan(str(tmp_path))])
    assert f"write {tmp_path}/orlop.socket:\n    # Made by" in shown
    assert f"remove {tmp_path}/orlop.socket\n" in shown
    assert "run systemctl start orlop.socket\n" in shown
