# SPDX-License-Identifier: Apache-2.0
"""cli.tsv: each command and flag of runc and crun is one of ours, and is used by a test, or has a reason."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from orlop.runc.commands import COMMANDS, GLOBAL

HERE = Path(__file__).parent
_GLOBAL = "(global)"
# Commands of the table that are none of ours, as the table says, and words of one of ours.
_NOT_OURS = {"init"}
_WORDS = {"mounts add", "mounts remove"}


def _rows() -> list[tuple[str, str, str, str, str]]:
    with open(HERE / "cli.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(command, flag, short, kind, seen) for command, flag, short, kind, _, seen in rows[1:]]


def _flags_of_ours() -> set[tuple[str, str, str, str]]:
    """Command, flag, short form and kind; --help, which each command has, once."""
    known = {_GLOBAL: GLOBAL} | {name: command[5] for name, command in COMMANDS.items()}
    return {
        (command, f"--{long}", f"-{short}" if short else "", kind)
        for command, flags in known.items()
        for long, short, kind, _ in flags
        if long != "help" or command == _GLOBAL
    }


def test_the_flags_are_those_of_the_table() -> None:
    table = {(command, flag, short, kind) for command, flag, short, kind, _ in _rows() if flag}
    assert table - _flags_of_ours() == set(), "of the table, and not ours"
    assert _flags_of_ours() - table == set(), "ours, and not in the table"


def test_the_commands_are_those_of_the_table() -> None:
    table = {command for command, flag, *_ in _rows() if not flag} - _WORDS - {_GLOBAL}
    assert table - set(COMMANDS) == _NOT_OURS
    assert set(COMMANDS) - table == set()
    assert len(_rows()) == len({row[:2] for row in _rows()}), "a row is there twice"


def test_the_tests_of_the_table_exist_and_use_the_flag() -> None:
    for command, flag, short, _, seen in _rows():
        assert seen, (command, flag)
        texts = []
        for folder, file, test in re.findall(r"(?:(\w+)/)?(test_\w+):(test_\w+)", seen):
            text = (HERE.parent / (folder or "oci") / f"{file}.py").read_text()
            assert f"def {test}(" in text, (command, flag, test)
            texts.append(text)
        if texts and flag not in ("", "--root"):  # which the fixtures put before every command
            used = [form for form in (flag, short) if form]
            assert any(f'"{form}' in text or f"{form} " in text for form in used for text in texts), (
                command,
                flag,
            )


def test_the_tests_that_the_security_notes_name_exist() -> None:
    notes = (HERE.parent.parent / "docs" / "security.md").read_text()
    named = set(re.findall(r"`(?:[\w/]+\.py::)?(?:Test\w+::)?(Test\w+|test_\w+)`", notes))
    texts = "\n".join(path.read_text() for path in HERE.parent.rglob("test_*.py"))
    assert len(named) > 80
    assert {name for name in named if f"def {name}(" not in texts and f"class {name}" not in texts} == set()
