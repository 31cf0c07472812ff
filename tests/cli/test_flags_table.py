# SPDX-License-Identifier: Apache-2.0
"""flags.tsv: each flag of the command line has an example, which comes out as with the docker command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cli.flag_cases import ORLOP, WORDS, Effects, by_program, examples, rows
from support.recording_daemon import RecordingDaemon

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def effects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Effects]:
    files = tmp_path_factory.mktemp("f")
    daemon = RecordingDaemon(str(files / "s"))
    yield Effects(by_program(ORLOP, daemon.host, files), daemon, files)
    daemon.close()


def test_every_flag_has_a_row() -> None:
    assert [row[:3] for row in rows()] == [row[:3] for row in examples()]


@pytest.mark.parametrize("command", WORDS)
def test_flags_come_out_as_they_shall(command: str, effects: Effects) -> None:
    found = {row.example: (effects.of(row), row.effect) for row in rows() if row.command == command}
    assert {example: each for example, each in found.items() if each[0] != each[1]} == {}
