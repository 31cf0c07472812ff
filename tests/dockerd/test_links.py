# SPDX-License-Identifier: Apache-2.0
"""Legacy links: the environment that they bring where it is kept, and their removal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
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
