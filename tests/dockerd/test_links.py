# SPDX-License-Identifier: Apache-2.0
"""Legacy links: the environment that they bring where it is kept, and their removal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.containerd import wait_until
from support.stack import Stack

from orlop.dockerd.containers.links import KEEP_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture
def linked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    monkeypatch.setenv(KEEP_VARIABLES, "1")
    with Stack() as stack:
        stack.load("busybox")
        stack.docker("run", "-d", "--name", "db", "--expose", "99", "-e", "K=v", "busybox", "sleep", "100").ok()
        yield stack


def test_variables_of_links_and_their_removal(linked: Stack) -> None:
    made = linked.docker("create", "--name", "app", "--link", "db:my-db", "busybox", "env")
    made.ok()
    variables = linked.docker("start", "-a", "app").ok().splitlines()
    address = linked.docker("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "db").ok().strip()
    for wanted in (
        f"MY_DB_PORT=tcp://{address}:99",
        f"MY_DB_PORT_99_TCP_ADDR={address}",
        "MY_DB_PORT_99_TCP_PROTO=tcp",
        "MY_DB_NAME=/app/my-db",
        "MY_DB_ENV_K=v",
    ):
        assert wanted in variables
    assert "No such container: app/other" in linked.docker("rm", "--link", "app/other").err
    assert "default link name" in linked.docker("rm", "--link", "app").err
    linked.docker("rm", "--link", "app/my-db").ok()
    assert not [line for line in linked.docker("start", "-a", "app").ok().splitlines() if line.startswith("MY_DB")]
    missing = linked.docker("create", "--link", "nosuch:x", "busybox")
    assert "could not get container for nosuch" in missing.err


def test_linked_containers_in_the_hosts_file(linked: Stack) -> None:
    """By alias, host name and name; and at its new address when the linked container has been away."""

    def inspected(template: str, name: str) -> str:
        return linked.docker("inspect", "-f", template, name).ok().strip()

    linked.docker("run", "-d", "--name", "app", "--link", "/db:my-db", "busybox", "sleep", "100").ok()
    host, old = inspected("{{.Config.Hostname}}", "db"), inspected("{{.NetworkSettings.IPAddress}}", "db")
    hosts = linked.docker("exec", "app", "cat", "/etc/hosts").ok()
    assert f"{old}\tmy-db {host} db\n" in hosts
    linked.docker("stop", "-t", "0", "db").ok()
    refused = linked.docker("run", "--rm", "--link", "db", "busybox", "true")
    assert "Cannot link to a non running container: /db" in refused.err

    def stolen() -> bool:
        """The lowest free address is given, and the old one is free by and by."""
        thief = linked.docker("run", "-d", "busybox", "sleep", "100").ok().strip()
        return inspected("{{.NetworkSettings.IPAddress}}", thief) == old

    wait_until(stolen, 30)
    linked.docker("start", "db").ok()
    new = inspected("{{.NetworkSettings.IPAddress}}", "db")
    assert new != old
    assert linked.docker("exec", "app", "cat", "/etc/hosts").ok() == hosts.replace(f"{old}\t", f"{new}\t")
    linked.docker("network", "create", "front").ok()
    linked.docker("run", "-d", "--name", "elsewhere", "--network", "front", "busybox", "sleep", "100").ok()
    refused = linked.docker("run", "--rm", "--link", "elsewhere", "busybox", "true")
    assert "Cannot link to /elsewhere, as it does not belong to the default network" in refused.err
    linked.docker("network", "disconnect", "front", "elsewhere").ok()
    linked.docker("network", "rm", "front").ok()
