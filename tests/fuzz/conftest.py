# SPDX-License-Identifier: Apache-2.0
"""The runtime under test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.bundles import Runtime


@pytest.fixture
def ours() -> Iterator[Runtime]:
    """Ours alone: the originals are not ours to mend."""
    made = Runtime("orlop-runc")
    yield made
    made.close()
