# SPDX-License-Identifier: Apache-2.0
"""`orlop manifest` with a registry, beside Docker's command and with lists that the two share."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from support import images
from support.registry import Registry, registry

from orlop.codec import decode
from orlop.oci.image import Index

__all__ = ["registry"]

pytestmark = pytest.mark.root

DOCKER = shutil.which("docker") or "/usr/bin/docker"
ORLOP = f"{os.path.dirname(sys.executable)}/orlop"


def _run(home: pathlib.Path, program: str, *arguments: str, fails: bool = False) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    done = subprocess.run(
        [program, "manifest", *arguments], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert bool(done.returncode) == fails, done.stderr
    return done.stderr if fails else done.stdout


@pytest.mark.parametrize("purge", [True, False])
def test_make_a_list(registry: Registry, tmp_path: pathlib.Path, purge: bool) -> None:
    """Made of two repositories, annotated and pushed: the registry has it whole."""
    host = registry.push(images.busybox(), "one/image:1")
    foreign = registry.push(images.foreign_platform(), "two/image:1")
    name = f"{registry.host}/made/list{purge}:1".lower()
    assert _run(tmp_path, ORLOP, "create", name, host, foreign) == f"Created manifest list {name}\n"
    assert "refusing to amend" in _run(tmp_path, ORLOP, "create", name, host, fails=True)
    _run(tmp_path, ORLOP, "create", "--amend", name, host)
    _run(tmp_path, ORLOP, "annotate", "--variant", "v9", "--os-version", "7", name, foreign)
    assert "does not exist in" in _run(tmp_path, ORLOP, "annotate", "--os", "linux", name, f"{host}2", fails=True)
    local = json.loads(_run(tmp_path, ORLOP, "inspect", name))
    theirs = json.loads(_run(tmp_path, DOCKER, "inspect", name))
    assert [each["platform"] for each in local["manifests"]] == [each["platform"] for each in theirs["manifests"]]
    pushed = _run(tmp_path, ORLOP, "push", *(["-p"] if purge else []), name).splitlines()
    assert len(pushed) == 3
    assert pushed[-1].startswith("sha256:")
    assert (os.listdir(tmp_path / ".docker/manifests") == []) == purge
    found = json.loads(_run(tmp_path, ORLOP, "inspect", name))
    assert {each["digest"] for each in found["manifests"]} == {
        images.busybox().target.digest,
        images.foreign_platform().target.digest,
    }
    by_digest = {each["digest"]: each["platform"] for each in found["manifests"]}
    assert by_digest[images.foreign_platform().target.digest] == {
        "architecture": "arm64",
        "os": "linux",
        "os.version": "7",
        "variant": "v9",
    }
    verbose = json.loads(_run(tmp_path, ORLOP, "inspect", "-v", name))
    assert [each["Descriptor"] for each in verbose] == found["manifests"]
    if not purge:
        _run(tmp_path, ORLOP, "rm", name)
    assert "No such manifest" in _run(tmp_path, ORLOP, "rm", name, fails=True)


def test_inspect_as_docker(registry: Registry, tmp_path: pathlib.Path) -> None:
    """Of an image and of a list, what the registry has."""
    image = registry.push(images.busybox(), "seen/image:1")
    index = registry.push(images.multi_platform(), "seen/list:1")
    for name in (image, index):
        theirs = json.loads(_run(tmp_path, DOCKER, "inspect", "--insecure", name))
        assert json.loads(_run(tmp_path, ORLOP, "inspect", name)) == theirs
    known = decode(images.multi_platform().blobs[images.multi_platform().target.digest], Index)
    verbose = json.loads(_run(tmp_path, ORLOP, "inspect", "-v", index))
    assert [each["Descriptor"]["digest"] for each in verbose] == [each.digest for each in known.manifests]
    assert "is a manifest list" in _run(tmp_path, ORLOP, "create", f"{image}x", index, fails=True)
    assert "manifest unknown" in _run(tmp_path, ORLOP, "inspect", f"{image}0", fails=True)
    other = "127.0.0.1:1/other/list:1"
    _run(tmp_path, ORLOP, "create", other, image)
    refused = _run(tmp_path, ORLOP, "push", other, fails=True)
    assert "cannot use source images from a different registry" in refused


def test_list_that_docker_has_made(registry: Registry, tmp_path: pathlib.Path) -> None:
    """It can be seen, annotated and pushed."""
    image = registry.push(images.docker_schema2(images.busybox()), "theirs/image:1")
    name = f"{registry.host}/theirs/list:1"
    _run(tmp_path, DOCKER, "create", "--insecure", name, image)
    before = json.loads(_run(tmp_path, ORLOP, "inspect", name))
    assert [each["digest"] for each in before["manifests"]] == [
        images.docker_schema2(images.busybox()).target.digest
    ]
    _run(tmp_path, ORLOP, "annotate", "--arch", "arm64", name, image)
    assert _run(tmp_path, ORLOP, "push", name).splitlines()[-1].startswith("sha256:")
    found = json.loads(_run(tmp_path, DOCKER, "inspect", "--insecure", name))
    assert [each["platform"]["architecture"] for each in found["manifests"]] == ["arm64"]
