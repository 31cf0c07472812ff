# SPDX-License-Identifier: Apache-2.0
"""The commands that orlop.launchers writes: started from anywhere, in any environment, as Docker and podman do."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from orlop import launchers

_ENTRY = EntryPoint("orlop-runc", "orlop.runc.entry:main", "console_scripts")


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A command written as an installation would."""
    path = tmp_path / "orlop-runc"
    found = [entry for entry in launchers.search_path(sys.executable) if "/tests" not in entry]
    launchers.write(str(path), launchers.script(sys.executable, found, _ENTRY))
    return path


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PATH": "/nonexistent", "HOME": "/nonexistent"},
        {"PYTHONPATH": "{trap}", "PYTHONHOME": "/nonexistent", "PYTHONSTARTUP": "{trap}/orlop.py"},
    ],
)
def test_the_environment_has_no_say(command: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / "orlop.py").write_text("raise SystemExit('trapped')")
    (trap / "os.py").write_text("raise SystemExit('trapped')")
    given = {name: value.format(trap=trap) for name, value in environment.items()}
    link = tmp_path / "link"
    link.symlink_to(command)
    for path in (command, link):
        done = subprocess.run(
            [path, "--version"], env=given, cwd=trap, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("orlop-runc version ")


def test_the_interpreter_starts_bare(command: Path) -> None:
    first, *_ = command.read_text().splitlines()
    assert first == f"#!{sys.executable} -IS"
    assert os.access(command, os.X_OK)
    assert [path.name for path in command.parent.iterdir()] == ["orlop-runc"]


def test_every_quick_command_is_one_of_the_installation() -> None:
    installed = {entry.name for entry in launchers.distribution("orlop").entry_points}
    assert set(launchers.QUICK) <= installed


def test_an_interpreter_that_no_script_can_name_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/with a space/python")
    with pytest.raises(SystemExit, match="nothing is changed"):
        launchers.main()
