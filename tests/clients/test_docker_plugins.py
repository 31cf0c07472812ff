# SPDX-License-Identifier: Apache-2.0
"""Plugins of the docker command: compose 2 with a project of six services; buildx, which is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.compose import Project
from support.containerd import wait_until
from support.stack import DOCKER, Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

PLUGINS = Path(__file__).parents[2] / ".venv/docker-plugins"
pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not (PLUGINS / "docker-buildx").exists(),
        reason="tools/setup dev could not fetch docker compose and buildx",
    ),
]
_NO_BUILDING = "building images is not supported by this daemon"

PROJECT = """
x-common: &common {image: busybox, pull_policy: never, stop_grace_period: 0s}
services:
  db:
    <<: *common
    command: sh -c "echo kept > /srv/page; sleep 0.5; touch /ready; sleep 1000"
    healthcheck:
      {test: ["CMD", "test", "-f", "/ready"], interval: 5s, start_period: 60s, start_interval: 200ms}
    volumes: ["data:/srv"]
    networks: {back: {aliases: [database], ipv4_address: 10.66.1.9}}
  app:
    <<: *common
    command: httpd -f -p 8080 -h /srv
    volumes:
      - {type: volume, source: data, target: /srv, read_only: true}
      - {type: tmpfs, target: /scratch, tmpfs: {size: 1048576}}
    depends_on: {db: {condition: service_healthy}, once: {condition: service_completed_successfully}}
    networks: [back]
  web:
    <<: *common
    command: |
      sh -c "wget -qO- http://app:8080/page; cd /run/secrets; cat token variable /etc/app.conf /inline.conf
             sleep 1000"
    secrets: [token, variable]
    configs: [{source: conf, target: /etc/app.conf}, {source: inline, target: /inline.conf}]
    depends_on: {app: {condition: service_started, restart: true}}
    networks: [front, back]
    ports: ["127.0.0.1::8080"]
    ulimits: {nofile: {soft: 100, hard: 200}}
  worker:
    <<: *common
    command: sleep 1000
    environment: [PLACE=worker]
    networks: [back]
    deploy: {replicas: 2, resources: {limits: {memory: 64M, cpus: "0.5", pids: 50}}}
    extra_hosts: ["far:10.1.2.3"]
    init: true
  stranger:
    <<: *common
    command: sh -c "nslookup app | grep -q 10.66 || echo apart; sleep 1000"
    depends_on: [app]
    networks: [front]
    logging: {driver: local, options: {max-size: 1m}}
  once:
    <<: *common
    command: echo done
    networks: [front]
networks: {front: {}, back: {internal: true, ipam: {config: [{subnet: 10.66.1.0/24}]}}}
volumes: {data: {}}
secrets: {token: {file: ./token}, variable: {environment: VARIABLE}}
configs: {conf: {file: ./conf}, inline: {content: "inlined\\n"}}
"""


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as stack:
        stack.load("busybox")
        client = Path(stack.environment()["DOCKER_CONFIG"])
        client.mkdir(exist_ok=True)
        (client / "config.json").write_text(json.dumps({"cliPluginsExtraDirs": [str(PLUGINS)]}))
        yield stack


def test_six_services(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").write_text(PROJECT)
    (tmp_path / ".env").write_text("VARIABLE=of the environment\n")
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "conf").write_text("\nconfigured\n")
    project = Project(stack, tmp_path, [DOCKER, "compose", "--progress", "quiet"])
    try:
        project.compose("up", "-d")
        _started(project)
        project.compose("up", "-d", "--no-recreate", "--scale", "worker=3")
        assert [each["State"]["Running"] for each in project.containers("worker")] == [True] * 3
        _logs(project)
        _entered(project, tmp_path)
        _restarted(project)
        _changed(project, tmp_path)
    finally:
        project.compose("down", "-v", "-t", "0", "--remove-orphans")
    assert stack.docker("ps", "-aq").ok() == ""
    assert stack.docker("volume", "ls", "-q").ok() == ""
    names = stack.docker("network", "ls", "--format", "{{.Name}}").ok().split()
    assert sorted(names) == ["bridge", "host", "none"]


def _started(project: Project) -> None:
    (db,), (web,), workers = (project.containers(name) for name in ("db", "web", "worker"))
    assert db["State"]["Health"]["Status"] == "healthy"
    told = project.events()
    assert told.index("health_status: healthy six-db-1") < told.index("start six-app-1")
    assert told.index("die six-once-1") < told.index("start six-app-1")
    assert set(web["NetworkSettings"]["Networks"]) == {"six_front", "six_back"}
    assert db["NetworkSettings"]["Networks"]["six_back"]["IPAddress"] == "10.66.1.9"
    limits = workers[0]["HostConfig"]
    assert (limits["Memory"], limits["NanoCpus"], limits["PidsLimit"]) == (64 << 20, 500_000_000, 50)
    assert len(workers) == 2
    port = project.compose("port", "web", "8080").strip()
    assert port.startswith("127.0.0.1:") and port != "127.0.0.1:0"


def _logs(project: Project) -> None:
    expected = {"kept", "secret", "of the environment", "configured", "inlined", "done", "apart"}

    def lines() -> set[str]:
        text = project.compose("logs", "--no-color", "--no-log-prefix", "web", "once", "stranger")
        return set(text.replace("\x1b[2K", "").splitlines())

    wait_until(lambda: expected <= lines(), 30)


def _entered(project: Project, directory: Path) -> None:
    script = "echo $PLACE; grep far /etc/hosts; cat /sys/fs/cgroup/pids/pids.max 2>/dev/null; ps | head -n 2"
    said = project.compose("exec", "-T", "--index", "3", "worker", "sh", "-c", script)
    assert said.startswith("worker\n10.1.2.3\tfar\n") and "init" in said
    assert project.compose("run", "--rm", "-T", "--no-deps", "worker", "echo", "aside").split() == ["aside"]
    project.compose("cp", "db:/srv/page", str(directory / "page"))
    assert (directory / "page").read_text() == "kept\n"
    project.compose("pause", "db")
    assert json.loads(project.compose("ps", "db", "--format", "json"))["State"] == "paused"
    project.compose("unpause", "db")
    assert "sleep 1000" in project.compose("top", "worker")
    assert "six-worker-3" in project.compose("stats", "--no-stream")


def _restarted(project: Project) -> None:
    (before,) = project.containers("app")
    project.compose("restart", "-t", "0", "app")
    (after,), (web,) = project.containers("app"), project.containers("web")
    assert after["Id"] == before["Id"]
    assert after["State"]["StartedAt"] > before["State"]["StartedAt"]
    assert web["State"]["StartedAt"] > after["State"]["StartedAt"]  # it depends on it, `restart: true`
    project.compose("kill", "stranger")
    project.compose("rm", "-f", "stranger")
    assert project.containers("stranger") == []


def _changed(project: Project, directory: Path) -> None:
    """What changed is made anew, the rest stays."""
    (db,), (worker, *_) = project.containers("db"), project.containers("worker")
    (directory / "compose.yaml").write_text(PROJECT.replace("PLACE=worker", "PLACE=elsewhere"))
    project.compose("up", "-d", "--wait", "db", "worker")
    assert project.containers("db")[0]["Id"] == db["Id"]
    workers = project.containers("worker")
    assert worker["Id"] not in [each["Id"] for each in workers]
    assert project.compose("exec", "-T", "worker", "sh", "-c", "echo $PLACE") == "elsewhere\n"


@pytest.mark.parametrize(
    "command", [["build"], ["buildx", "build"], ["image", "build"], ["buildx", "prune", "-f"]]
)
def test_building_is_refused_in_one_line(stack: Stack, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    done = stack.docker(*command, *([str(tmp_path)] if "build" in command else []))
    assert done.status == 1
    (line,) = done.err.strip().splitlines()
    assert line.startswith("ERROR: ") and _NO_BUILDING in line


def test_compose_says_that_it_cannot_build(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\n")
    (tmp_path / "compose.yaml").write_text("services: {a: {build: .}}\n")
    said = Project(stack, tmp_path, [DOCKER, "compose"]).compose("build", status=17)
    assert _NO_BUILDING in said.strip().splitlines()[-1]
