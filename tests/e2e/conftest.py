# SPDX-License-Identifier: Apache-2.0
"""One stack and one registry for all end-to-end tests of a module; each test by both command lines."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import images
from support.e2e import Cli, Stack
from support.registry import Registry, running_registry


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        archive = subprocess.run(
            [sys.executable, "-m", "orlop.oci.busybox"], capture_output=True, check=True
        ).stdout
        subprocess.run(
            [running.docker.program, "load", "-q"], input=archive, capture_output=True, check=True,
            env=running.environment(),
        )  # fmt: skip
        yield running


@pytest.fixture(params=["docker", "orlop"])
def cli(request: pytest.FixtureRequest, stack: Stack) -> Cli:
    """The real docker command line, then ours."""
    return stack.docker if request.param == "docker" else stack.orlop


@pytest.fixture(scope="module")
def near_registry(stack: Stack) -> Iterator[Registry]:
    """A registry in the stack's network namespace, where the tests are too."""
    with running_registry() as registry:
        yield registry


@pytest.fixture(scope="module")
def registry_image(near_registry: Registry) -> str:
    """Reference of a busybox image in a real registry."""
    near_registry.push(images.busybox(), "busybox:1")
    return f"{near_registry.host}/busybox:1"
