# SPDX-License-Identifier: Apache-2.0
"""Each cell of the swap matrix, running, with a container `box` in it."""

from collections.abc import Iterator

import pytest
from support.swap.cells import CELLS, Cell
from support.swap.engine import Engine


@pytest.fixture(scope="module", params=CELLS, ids=lambda cell: cell.number)
def cell(request: pytest.FixtureRequest) -> Cell:
    """One cell of the table."""
    chosen: Cell = request.param
    return chosen


@pytest.fixture(scope="module")
def engine(cell: Cell) -> Iterator[Engine]:
    """The cell's daemons, with the image."""
    running = cell.build()
    yield running
    running.close()
