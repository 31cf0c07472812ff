# SPDX-License-Identifier: Apache-2.0
"""AppArmor through the Engine API, where the kernel runs it: `docker-default`, unless an option says otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.apparmor import needs_apparmor
from support.stack import Stack

pytestmark = [pytest.mark.root, needs_apparmor]
CURRENT = ("cat", "/proc/self/attr/current")
CONFINED, FREE = "docker-default (enforce)\n", "unconfined\n"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        running.load("busybox")
        yield running


def test_containers_and_execs_are_confined(stack: Stack) -> None:
    assert "name=apparmor" in stack.docker("info", "-f", "{{.SecurityOptions}}").ok()
    profiles = Path("/sys/kernel/security/apparmor/profiles").read_text(encoding="utf-8")
    assert "docker-default (enforce)" in profiles
    stack.docker("run", "-d", "--name", "box", "--cap-add", "SYS_ADMIN", "busybox", "sleep", "1000").ok()
    try:
        assert stack.docker("exec", "box", *CURRENT).ok() == CONFINED
        assert stack.docker("exec", "box", "cat", "/proc/1/attr/current").ok() == CONFINED
        assert stack.docker("inspect", "-f", "{{.AppArmorProfile}}", "box").ok() == "docker-default\n"
        # which the capability alone would allow
        assert stack.docker("exec", "box", "mount", "-t", "tmpfs", "none", "/tmp").status != 0
    finally:
        stack.docker("rm", "-f", "box").ok()


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--security-opt", "apparmor=unconfined", "--cap-add", "SYS_ADMIN"], FREE),
        (["--privileged"], FREE),
        (["--privileged", "--security-opt", "apparmor=docker-default"], CONFINED),
    ],
    ids=["unconfined", "privileged", "privileged-confined"],
)
def test_what_the_options_say(stack: Stack, options: list[str], shown: str) -> None:
    found = stack.docker(
        "run", "--rm", *options, "busybox", "sh", "-c", f"{' '.join(CURRENT)}; mount -t tmpfs none /tmp"
    )
    assert found.out == shown
    assert (found.status == 0) is (shown == FREE), found.err


def test_a_profile_that_is_not_loaded(stack: Stack) -> None:
    refused = stack.docker("run", "--name", "box", "--security-opt", "apparmor=nowhere", "busybox", "true")
    assert refused.status not in (0, 1)
    assert "nowhere" in refused.err and "apparmor" in refused.err.lower()
    stack.docker("rm", "box").ok()
