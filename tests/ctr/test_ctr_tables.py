# SPDX-License-Identifier: Apache-2.0
"""The commands and flags of containerd 2's ctr: each is here, as its row says, and a test sees what it does.

What ours does otherwise, and means to, is in DIFFERENT with the reason. Flags and commands beyond these are ours.
"""

from __future__ import annotations

import csv
import importlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from orlop.ctr import main
from orlop.ctr.flags import Flag, duration

HERE = Path(__file__).parent
TYPES = {"bool": bool, "duration": duration, "float64": float, "int[]": list, "string": str, "string[]": list}
DIFFERENT = {
    ("", "address"): "the socket of orlop-containerd",
    ("content active", "root"): "nothing is read there: the daemon tells what is active",
    ("images import", "platform"): "may be given more than once",
    ("images mount", "platform"): "empty stands for the host's",
}


def _table(name: str) -> Iterator[dict[str, str]]:
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def _find(words: Sequence[str]) -> tuple[main.Command | None, Sequence[Flag]]:
    """A command and its flags, as the command line finds it; no command for a group."""
    if not words:
        return None, main._GLOBAL
    group = main._GROUP_ALIASES.get(words[0], words[0])
    module = importlib.import_module(f"orlop.ctr.commands.{main._GROUPS[group]}")
    commands: dict[str, main.Command] = module.COMMANDS
    shared = getattr(module, "FLAGS", ())
    if len(words) == 1:
        return commands.get(""), commands[""].flags if "" in commands else shared
    name = " ".join(words[1:])
    if any(each.startswith(f"{name} ") for each in commands):
        return None, ()
    command = commands.get(name) or commands[main._ALIASES.get(name, name)]
    return command, (*command.flags, *shared)


@pytest.mark.parametrize("row", list(_table("commands.tsv")), ids=lambda row: row["command"].replace(" ", "-"))
def test_command(row: dict[str, str]) -> None:
    words = row["command"].split()
    command, _ = _find(words)
    for alias in row["aliases"].split():
        other, _ = _find([*words[:-1], alias])
        assert command is None or (other is not None and other.run is command.run), alias
    seen = row["seen by (compared: a line of test_ctr_compare)"]
    assert (command is None) == (seen == "a group")
    if "compared" in seen:
        lines = re.search(r'LINES = """\n(.*?)"""', (HERE / "test_ctr_compare.py").read_text(), re.DOTALL)
        assert lines is not None
        assert any(_is_asked(line, words, row["aliases"].split()) for line in lines[1].splitlines())
    for place, test in re.findall(r"([\w/.]+):(test_\w+)", seen):
        assert re.search(rf"def {test}\(", (HERE / f"{place}.py").read_text()), (place, test)


def _is_asked(line: str, words: Sequence[str], aliases: Sequence[str]) -> bool:
    """Whether a line of the comparison is of this command; flags of its group may stand between."""
    given = line.split()
    groups = {words[0], *(alias for alias, group in main._GROUP_ALIASES.items() if group == words[0])}
    if not given or given[0] not in groups:
        return False
    if len(words) == 1:
        return True
    name = words[1:]
    wanted = [name, *([*name[:-1], alias] for alias in aliases)]
    rest = given[1:]
    while rest and rest[0].startswith("--"):
        rest = rest[2:]
    return any(rest[: len(each)] == each for each in wanted)


def test_flags() -> None:
    wrong = {}
    for row in _table("flags.tsv"):
        try:
            _check_flag(row)
        except (AssertionError, KeyError, ValueError) as error:
            wrong[row["command"], row["names"]] = repr(error)
    assert wrong == {}


def _check_flag(row: dict[str, str]) -> None:
    names = row["names"].split()
    _, flags = _find(row["command"].split())
    (flag,) = [each for each in flags if names[0] in each.names.split()]
    assert set(names) <= set(flag.names.split())
    assert flag.env == row["environment"]
    if (row["command"], names[0]) in DIFFERENT:
        return
    assert flag.type is TYPES.get(row["type"], int)
    if flag.type is duration:
        assert (flag.default or 0.0) == duration(row["default"])
    else:
        assert str(flag.default or "") == {"false": "", "0": ""}.get(row["default"], row["default"])
