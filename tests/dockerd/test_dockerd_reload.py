# SPDX-License-Identifier: Apache-2.0
"""SIGHUP: which settings change while the daemon runs, what it tells, and that a wrong file changes nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import orlopd
from support.orlopd import PROGRAM, flags, get, running

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory and a network namespace for one test."""
    with orlopd.directory() as path:
        yield path


def reloads(path: str) -> list[dict[str, Any]]:
    """The reload events so far."""
    filters = '{"type":["daemon"],"event":["reload"]}'
    found: list[dict[str, Any]] = get(path, f"/events?since=0&until={time.time() + 0.1}&filters={filters}")[1]
    return found


def test_what_changes_is_seen_and_told(base: Path) -> None:
    path = f"{base}/x.sock"
    command = [*PROGRAM, *flags(base, "-H", f"unix://{path}", "--node-generic-resource", "gpu=2")]
    with running(base, command) as daemon:
        before = get(path, "/info")[1]
        assert before["GenericResources"] == [{"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}}]
        changed = {
            "debug": True,
            "labels": ["a=1", "b=2"],
            "registry-mirrors": ["https://mirror.example"],
            "insecure-registries": ["10.0.0.0/8", "r.example:5000"],
            "runtimes": {
                "other": {"path": "/bin/true", "runtimeArgs": ["--debug", "a b"]},
                "shim": {"runtimeType": "io.containerd.runc.v2", "options": {"BinaryName": "/usr/bin/crun"}},
            },
            "default-runtime": "other",
            "max-concurrent-downloads": 7,
            "shutdown-timeout": 3,
            "default-stop-timeout": 2,
            "default-shm-size": "1g",
            "log-driver": "none",
        }
        (base / "daemon.json").write_text(json.dumps(changed))
        daemon.reload()
        info = get(path, "/info")[1]
        assert (info["Debug"], info["Labels"]) == (True, ["a=1", "b=2"])
        assert info["RegistryConfig"]["Mirrors"] == ["https://mirror.example"]
        assert "10.0.0.0/8" in info["RegistryConfig"]["InsecureRegistryCIDRs"]
        assert info["RegistryConfig"]["IndexConfigs"]["r.example:5000"]["Secure"] is False
        assert info["Runtimes"]["other"] == {"path": "/bin/true", "runtimeArgs": ["--debug", "a b"]}
        assert info["DefaultRuntime"] == "other"
        assert info["LoggingDriver"] == before["LoggingDriver"] == "json-file"  # not reloadable
        (script,) = (base / "d" / "runtimes").iterdir()
        assert script.read_text() == "#!/bin/sh\nexec /bin/true --debug 'a b' \"$@\"\n"
        (event,) = reloads(path)
        attributes = event["Actor"]["Attributes"]
        assert event["Actor"]["ID"] == info["ID"]
        assert attributes["name"] == info["Name"]
        assert attributes["max-concurrent-downloads"] == "7"
        assert attributes["max-concurrent-uploads"] == "5"
        assert attributes["labels"] == '["a=1","b=2"]'
        assert attributes["default-shm-size"] == str(1 << 30)
        assert attributes["debug"] == "true"

        (base / "daemon.json").write_text("{}")
        daemon.reload()
        attributes = reloads(path)[1]["Actor"]["Attributes"]
        assert attributes["max-concurrent-downloads"] == "3"  # back to its default
        assert attributes["labels"] == '["a=1","b=2"]'  # stays
        assert get(path, "/info")[1]["Debug"] is True


def test_a_wrong_file_changes_nothing(base: Path) -> None:
    path = f"{base}/x.sock"
    with running(base, [*PROGRAM, *flags(base, "-H", f"unix://{path}")]) as daemon:
        before = get(path, "/info")[1]
        for content in (
            "{",
            '{"labels": ["x=1"], "nosuch": 1}',
            '{"labels": ["x=1"], "default-runtime": "nosuch"}',
            '{"labels": ["x=1"], "runtimes": {"r": {"path": "/a", "runtimeType": "b"}}}',
            '{"labels": ["x=1"], "hosts": ["fd://"]}',
        ):
            (base / "daemon.json").write_text(content)
            daemon.reload()
        info = get(path, "/info")[1]
        for key in ("Labels", "Runtimes", "DefaultRuntime"):
            assert info[key] == before[key]
        assert reloads(path) == []
