# SPDX-License-Identifier: Apache-2.0
"""The byte code of a command in one file: used while it is true of the sources, and never otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import orlop
from orlop.launchers import search_path


class _Copy:
    """A copy of the package, to change, and a command in it."""

    def __init__(self, directory: Path) -> None:
        self.package = directory / "orlop"
        self.package.mkdir()
        source = Path(orlop.__file__).parent
        for name in ("__init__.py", "bundle.py", "errdefs.py"):
            shutil.copy(source / name, self.package / name)
        self.module = self.package / "said.py"
        self.say("one")

    def say(self, text: str) -> None:
        """Let the module say something else, at another time than before."""
        changed = os.stat(self.module).st_mtime_ns + 10**9 if self.module.exists() else 10**18
        self.module.write_text(f'"""A module."""\nTEXT = {text!r}\n')
        os.utime(self.module, ns=(changed, changed))

    def run(self, *options: str) -> tuple[str, str]:
        """What it says, and the type of what has loaded it."""
        others = [entry for entry in search_path(sys.executable) if "site-packages" in entry]
        script = (
            f"import sys; sys.path[:0] = {[str(self.package.parent), *others]!r}; "
            "from orlop.bundle import Bundle; bundle = Bundle('test'); import orlop.said; bundle.keep(); "
            "print(orlop.said.TEXT, type(orlop.said.__loader__).__name__)"
        )
        done = subprocess.run(
            [sys.executable, *options, "-IS", "-c", script], capture_output=True, text=True, check=True
        )
        text, loader = done.stdout.split()
        return text, loader

    def kept(self) -> list[Path]:
        """The files that hold byte code in one."""
        return list(self.package.glob("__pycache__/*bundle*"))


@pytest.fixture
def copy(tmp_path: Path) -> _Copy:
    return _Copy(tmp_path)


def test_the_second_run_reads_one_file(copy: _Copy) -> None:
    assert copy.run() == ("one", "SourceFileLoader")
    [kept] = [path for path in copy.kept() if path.suffix == ".bundle"]
    before = kept.stat()
    assert copy.run() == ("one", "Bundle")
    assert kept.stat().st_mtime_ns == before.st_mtime_ns, "written again for nothing"


def test_a_changed_source_counts_at_once(copy: _Copy) -> None:
    copy.run()
    copy.say("two")
    assert copy.run() == ("two", "SourceFileLoader")
    assert copy.run() == ("two", "Bundle")


def test_a_source_that_is_gone_is_gone(copy: _Copy) -> None:
    copy.run()
    copy.module.unlink()
    with pytest.raises(subprocess.CalledProcessError):
        copy.run()


@pytest.mark.parametrize("damage", [b"", b"garbage", b"i\x01\x00\x00\x00"])
def test_a_damaged_file_is_no_bundle(copy: _Copy, damage: bytes) -> None:
    copy.run()
    [kept] = [path for path in copy.kept() if path.suffix == ".bundle"]
    kept.write_bytes(damage)
    assert copy.run() == ("one", "SourceFileLoader")
    assert copy.run() == ("one", "Bundle")


def test_nothing_is_written_where_no_byte_code_is(copy: _Copy) -> None:
    assert copy.run("-B") == ("one", "SourceFileLoader")
    assert copy.kept() == []


def test_a_directory_that_cannot_be_written_to_is_no_error(copy: _Copy) -> None:
    (copy.package / "__pycache__").write_text("no directory")
    assert copy.run() == ("one", "SourceFileLoader")
