# SPDX-License-Identifier: Apache-2.0
"""The Engine API of orlopd beside that of Debian's dockerd: no difference but those that are listed."""

from __future__ import annotations

import pytest
from conformance.differ import differences, ours, reference, rules, unlisted


@pytest.mark.root
@pytest.mark.original
@pytest.mark.timeout(400)
def test_every_difference_is_meant() -> None:
    with reference("dockerd") as theirs, ours() as mine:
        found = differences("1.41", theirs, mine)
    assert found, "the scenario has not run: versions and sizes always differ"
    assert unlisted(found, rules()) == []
