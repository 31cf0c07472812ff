# SPDX-License-Identifier: Apache-2.0
"""Devices by CDI: which files count, what a container gets, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from orlop.dockerd.spec.cdi import requested
from orlop.engine.types import DeviceRequest
from orlop.errdefs import InvalidArgumentError
from orlop.oci.cdi import Registry
from orlop.oci.runtime import Linux, Process, Spec, User

if TYPE_CHECKING:
    from pathlib import Path

YAML = """
cdiVersion: "0.6.0"
kind: "vendor.com/device"
containerEdits:
  env: ["VENDOR=here"]
devices:
  - name: "null"
    containerEdits:
      env: ["WHICH=null", "PATH=/vendor"]
      deviceNodes:
        - {path: /dev/vendor0, hostPath: /dev/null, permissions: rw, fileMode: 416, uid: 7}
      mounts:
        - {hostPath: /usr/lib/vendor, containerPath: /usr/lib/vendor, options: [ro, nosuid, nodev, rbind]}
      hooks:
        - {hookName: createContainer, path: /bin/vendor-hook, args: [vendor-hook, update], env: [A=b], timeout: 3}
      additionalGids: [44, 0]
  - name: second
    containerEdits:
      deviceNodes: [{path: /dev/zero, type: c, major: 1, minor: 5}]
"""


def spec() -> Spec:
    return Spec(
        oci_version="1.2.0",
        process=Process(cwd="/", args=["x"], env=["PATH=/bin", "A=1"], user=User(additional_gids=[44])),
        linux=Linux(),
    )


def test_what_a_container_gets(tmp_path: Path) -> None:
    (tmp_path / "vendor.yaml").write_text(YAML)
    found = spec()
    Registry([str(tmp_path)]).inject(found, ["vendor.com/device=null", "vendor.com/device=second"])
    assert found.process is not None
    assert found.linux is not None
    assert found.linux.resources is not None
    assert found.process.env == ["A=1", "VENDOR=here", "WHICH=null", "PATH=/vendor"]
    assert found.process.user.additional_gids == [44]
    first, second = found.linux.devices
    assert (first.path, first.type, first.major, first.minor) == ("/dev/vendor0", "c", 1, 3)
    assert (first.file_mode, first.uid) == (0o640, 7)
    assert (second.path, second.minor) == ("/dev/zero", 5)
    rules = [(rule.type, rule.major, rule.minor, rule.access) for rule in found.linux.resources.devices]
    assert rules == [("c", 1, 3, "rw"), ("c", 1, 5, "rwm")]
    (mount,) = found.mounts
    assert (mount.source, mount.options) == ("/usr/lib/vendor", ["ro", "nosuid", "nodev", "rbind"])
    assert found.hooks is not None
    (hook,) = found.hooks.create_container
    assert (hook.path, hook.args, hook.env, hook.timeout) == (
        "/bin/vendor-hook",
        ["vendor-hook", "update"],
        ["A=b"],
        3,
    )


def test_later_directories_win_and_broken_files_are_passed_over(tmp_path: Path) -> None:
    def device(value: str) -> dict[str, Any]:
        edits = {"env": [f"V={value}"]}
        return {"cdiVersion": "0.6.0", "kind": "v.com/c", "devices": [{"name": "x", "containerEdits": edits}]}

    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.json").write_text(json.dumps(device(str(number))))
    (tmp_path / "2" / "broken.json").write_text("{")
    (tmp_path / "2" / "broken.yaml").write_text("a: [")
    (tmp_path / "2" / "kind.yaml").write_text("cdiVersion: '1'\nkind: nokind\n")
    (tmp_path / "2" / "hook.json").write_text(
        json.dumps({**device("3"), "containerEdits": {"hooks": [{"hookName": "x", "path": "/x"}]}})
    )
    (tmp_path / "2" / "notes.txt").write_text("not for us")
    registry = Registry([str(tmp_path / "1"), str(tmp_path / "2"), "/nosuch"])
    assert list(registry.devices()) == ["v.com/c=x"]
    found = spec()
    registry.inject(found, ["v.com/c=x"])
    assert found.process is not None
    assert "V=2" in found.process.env


def test_what_cannot_be_resolved(tmp_path: Path) -> None:
    registry = Registry([str(tmp_path)])
    with pytest.raises(InvalidArgumentError, match=r"injection failed: unresolvable CDI devices a/b=c$"):
        registry.inject(spec(), ["a/b=c"])
    (tmp_path / "v.yaml").write_text(YAML.replace("/dev/null", "/dev/nosuch"))
    with pytest.raises(InvalidArgumentError, match="failed to stat CDI host device '/dev/nosuch'"):
        registry.inject(spec(), ["vendor.com/device=null"])


def test_requests(tmp_path: Path) -> None:
    registry = Registry([str(tmp_path)])
    gpu = [["gpu"]]
    for request in (
        DeviceRequest(count=-1, capabilities=gpu),
        DeviceRequest(driver="nvidia", count=1, capabilities=gpu),
    ):
        with pytest.raises(InvalidArgumentError, match="could not select device driver"):
            requested([request], registry)
    words = r'could not select device driver "" with capabilities: \[\[gpu\]\]'
    with pytest.raises(InvalidArgumentError, match=words):
        requested([DeviceRequest(count=-1, capabilities=gpu)], registry)
    with pytest.raises(InvalidArgumentError, match='could not select device driver "cdi"'):
        requested([DeviceRequest(driver="cdi", device_ids=["a/b=c"])], Registry([]))
    assert requested([DeviceRequest(driver="cdi", device_ids=["a/b=c"])], registry) == ["a/b=c"]
    (tmp_path / "nvidia.yaml").write_text("cdiVersion: '0.6.0'\nkind: nvidia.com/gpu\ndevices: [{name: all}]\n")
    assert requested([DeviceRequest(count=-1, capabilities=gpu)], registry) == ["nvidia.com/gpu=all"]
    assert requested([DeviceRequest(count=2, capabilities=gpu)], registry) == [
        "nvidia.com/gpu=0",
        "nvidia.com/gpu=1",
    ]
    named = DeviceRequest(driver="nvidia", device_ids=["GPU-1"], capabilities=[["gpu", "compute"]])
    assert requested([named], registry) == ["nvidia.com/gpu=GPU-1"]
