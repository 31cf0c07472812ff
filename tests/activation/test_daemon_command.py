# SPDX-License-Identifier: Apache-2.0
"""The command line of `orlop daemon` and its plans: what it understands, and what it asks of systemd."""

import sys

import pytest

from orlop.activation import cli, components, layout, systemd


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["fly"], "unknown command 'fly': one of start, stop, restart, status, install, uninstall, clean is"),
        (["stop", "x"], "unknown component 'x': one of socket, dockerd, containerd, netd is needed"),
        (["stop", "netd", "x"], "unexpected argument 'x'"),
        (["stop", "--now"], "option --now not recognized"),
    ],
)
def test_bad_usage_is_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(argv) == 125
    captured = capsys.readouterr()
    assert captured.err.startswith(f"orlop daemon: {message}") and captured.out == ""


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == cli.run(["--help"]) == 0
    assert capsys.readouterr().out.count("Usage:  orlop daemon COMMAND") == 2


def test_layout_from_flags_environment_and_defaults() -> None:
    assert layout.resolve("", "", "", {}) == layout.Layout("/run/orlop", "/var/lib/orlop", "/var/log/orlop")
    environ = {"ORLOP_RUN_DIR": "/r", "ORLOP_DATA_ROOT": "/d"}
    assert layout.resolve("", "", "", environ) == layout.Layout("/r", "/d", "/r/log")
    assert layout.resolve("/a", "", "/l", environ) == layout.Layout("/a", "/d", "/l")


def test_defaults_are_left_to_the_configuration() -> None:
    dockerd = components.table(layout.Layout())[0]
    assert dockerd.argv[1:] == ("-P", "-m", "orlop.dockerd.main", "-H", "fd://")
    private = components.table(layout.Layout("/r", "/d", "/l"))[0]
    assert private.argv[6:] == (
        *("--data-root", "/d"),
        *("--exec-root", "/r"),
        *("--containerd", "/r/containerd/containerd.sock"),
    )
    assert dockerd.argv[0] == sys.executable


def test_systemctl_calls() -> None:
    table = components.table(layout.Layout())
    assert systemd.plan("start", "all", table) == [["systemctl", "start", "orlop.socket"]]
    assert systemd.plan("stop", "all", table) == [
        ["systemctl", "stop", "orlop.socket", "orlop.service", "orlop-containerd.service", "orlop-netd.service"]
    ]
    assert systemd.plan("restart", "containerd", table) == [["systemctl", "restart", "orlop-containerd.service"]]
    assert systemd.plan("restart", "all", table)[0][1] == "try-restart"


def test_systemctl_output() -> None:
    shown = (
        "Id=orlop.socket\nActiveState=active\nSubState=listening\nMainPID=0\nActiveEnterTimestamp=@1700000000\n\n"
        "MainPID=0\nActiveEnterTimestamp=\nId=orlop.service\nActiveState=inactive\nSubState=dead\n\n"
        "MainPID=7\nActiveEnterTimestamp=@1700000001\nId=orlop-containerd.service\nActiveState=active\n"
    )
    rows = {row["component"]: row for row in systemd.rows(shown, components.table(layout.Layout()))}
    assert (rows["socket"]["state"], rows["socket"]["since"]) == ("listening", 1700000000.0)
    assert rows["dockerd"]["state"] == "stopped, socket listening"
    assert (rows["containerd"]["state"], rows["containerd"]["pid"]) == ("running", 7)
    assert rows["netd"] == {"component": "netd", "state": "stopped", "pid": 0, "since": 0.0, "listening": ""}
