# SPDX-License-Identifier: Apache-2.0
"""docker-compose, Debian 12's, with a project of six services: up, scale, logs, restart, down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.compose import Project
from support.containerd import wait_until
from support.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

COMPOSE = "/usr/bin/docker-compose"
PROJECT = """
version: "3.9"
x-common: &common
  image: busybox
  stop_grace_period: 0s
services:
  db:
    <<: *common
    command: sh -c "echo kept > /srv/page; sleep 0.5; touch /ready; sleep 1000"
    healthcheck: {test: ["CMD", "test", "-f", "/ready"], interval: 200ms, retries: 100}
    volumes: ["data:/srv"]
    networks: [back]
  app:
    <<: *common
    command: httpd -f -p 8080 -h /srv
    volumes: ["data:/srv:ro"]
    depends_on: {db: {condition: service_healthy}}
    networks: [back]
  web:
    <<: *common
    command: sh -c "wget -qO- http://app:8080/page; cat /run/secrets/token; sleep 1000"
    secrets: [token]
    depends_on: [app]
    networks: [front, back]
    labels: {role: edge}
  worker:
    <<: *common
    command: sleep 1000
    environment: [PLACE=worker]
    networks: [back]
  stranger:
    <<: *common
    command: sh -c "wget -T 2 -qO- http://app:8080/page || echo apart; sleep 1000"
    depends_on: [app]
    networks: [front]
  once:
    <<: *common
    command: echo done
    networks: [front]
networks: {front: {}, back: {internal: true}}
volumes: {data: {}}
secrets: {token: {file: ./token}}
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        stack.load("busybox")
        yield stack


def test_six_services(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text(PROJECT)
    (tmp_path / "token").write_text("secret\n")
    project = Project(stack, tmp_path, [COMPOSE, "--no-ansi"])
    try:
        project.compose("up", "-d")
        _started(project)
        project.compose("up", "-d", "--no-recreate", "--scale", "worker=3")
        assert [each["State"]["Running"] for each in project.containers("worker")] == [True] * 3
        logs = project.compose("logs", "--no-color", "web", "once", "stranger")
        assert {"kept", "secret", "done", "apart"} <= {line.rpartition("| ")[2] for line in logs.splitlines()}
        _restarted(project)
        assert project.compose("exec", "-T", "worker", "sh", "-c", "echo $PLACE") == "worker\n"
        assert project.compose("run", "--rm", "-T", "--no-deps", "worker", "echo", "aside").split() == ["aside"]
        project.compose("stop", "-t", "0", "stranger")
        project.compose("rm", "-f", "stranger")
        assert project.containers("stranger") == []
    finally:
        project.compose("down", "-v", "-t", "0")
    assert stack.docker("ps", "-aq").ok() == ""
    assert stack.docker("volume", "ls", "-q").ok() == ""
    names = stack.docker("network", "ls", "--format", "{{.Name}}").ok().split()
    assert sorted(names) == ["bridge", "host", "none"]


def _started(project: Project) -> None:
    (db,), (web,) = (project.containers(name) for name in ("db", "web"))
    assert db["State"]["Health"]["Status"] == "healthy"
    told = project.events()
    assert told.index("health_status: healthy six_db_1") < told.index("start six_app_1")
    assert set(web["NetworkSettings"]["Networks"]) == {"six_front", "six_back"}
    wait_until(lambda: "secret" in project.compose("logs", "--no-color", "web"), 20)
    wait_until(lambda: "apart" in project.compose("logs", "--no-color", "stranger"), 20)
    (once,) = project.containers("once")
    assert (once["State"]["Status"], once["State"]["ExitCode"]) == ("exited", 0)


def _restarted(project: Project) -> None:
    (before,) = project.containers("web")
    project.compose("restart", "-t", "0", "web")
    (after,) = project.containers("web")
    assert after["Id"] == before["Id"]
    assert after["State"]["StartedAt"] > before["State"]["StartedAt"]
