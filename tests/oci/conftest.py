# SPDX-License-Identifier: Apache-2.0
"""The runtimes under test: ours, and Debian's originals, which prove the suite."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.bundles import COMMANDS, Bundle, Runtime


@pytest.fixture(
    params=[
        "orlop-runc",
        pytest.param("runc", marks=pytest.mark.original),
        pytest.param("crun", marks=pytest.mark.original),
    ]
)
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    """Each runtime that is installed."""
    if not os.path.exists(COMMANDS[request.param]):
        pytest.skip(f"{request.param} is not installed")
    made = Runtime(request.param)
    yield made
    made.close()


@pytest.fixture
def ours() -> Iterator[Runtime]:
    """Ours alone, for what the originals do otherwise or not at all."""
    made = Runtime("orlop-runc")
    yield made
    made.close()


@pytest.fixture
def bundle(request: pytest.FixtureRequest) -> Bundle:
    """A bundle of whichever runtime the test uses."""
    name = "runtime" if "runtime" in request.fixturenames else "ours"
    used: Runtime = request.getfixturevalue(name)
    return used.bundle()
