# SPDX-License-Identifier: Apache-2.0
"""Our shim's log under Debian's containerd; the rest of what is asked of the two is in the swap matrix."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.containerd import wait_until
from support.swap.cells import OUR_SHIM
from support.swap.ctr import Ctr

pytestmark = [pytest.mark.root, pytest.mark.original]


@pytest.fixture(params=["", "runc"], ids=lambda name: name or "in-process")
def engine(request: pytest.FixtureRequest) -> Iterator[Ctr]:
    running = Ctr("original", "original", OUR_SHIM, {"ORLOP_SHIM_RUNTIME": request.param})
    yield running
    running.close()


def test_no_line_is_lost_or_doubled_while_containerd_dies(engine: Ctr) -> None:
    names = [f"n{number}" for number in range(5)]
    for name in names:
        log = f"json-file://{engine.daemon.base}/{name}.log"
        engine.start(name, "seq 1 20000; sleep 0.5; seq 20001 40000", log)
    expected = [f"{number}\\n" for number in range(1, 40001)]
    with engine.nobody_above():
        for name in names:
            path = Path(f"{engine.daemon.base}/{name}.log")
            wait_until(lambda path=path: path.read_bytes().count(b"\n") >= 40000, 30)  # type: ignore[misc]
            assert re.findall(r'"log":"([^"]*)"', path.read_text()) == expected
    for name in names:
        assert engine.end(name) == 0
