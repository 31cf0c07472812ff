# SPDX-License-Identifier: Apache-2.0
"""How docker-default gets into the kernel, with files that stand for the kernel's and its parser."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from orlop.dockerd.spec.apparmor import provide_default_profile
from orlop.errdefs import FailedPreconditionError
from orlop.oci import apparmor

_PARSER = """#!/bin/sh
[ "$*" = -Kr ] && cat >{loaded}
{end}
"""


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the list of profiles, and a place for a parser."""
    (tmp_path / "profiles").write_text("docker-defaults (enforce)\n/usr/bin/man (complain)\n")
    monkeypatch.setattr(apparmor, "PROFILES", str(tmp_path / "profiles"))
    monkeypatch.setattr(apparmor, "_PLACES", "")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def _parser(kernel: Path, end: str = "true") -> None:
    (kernel / "apparmor_parser").write_text(_PARSER.format(loaded=kernel / "loaded", end=end))
    (kernel / "apparmor_parser").chmod(0o755)


def test_it_is_loaded_where_it_is_missing(kernel: Path) -> None:
    _parser(kernel)
    assert not apparmor.is_loaded("docker-default")
    assert apparmor.is_loaded("/usr/bin/man")
    provide_default_profile()
    text = (kernel / "loaded").read_text()
    assert "profile docker-default flags=" in text
    assert "peer=docker-default," in text
    assert "@" not in text.replace("@{", "")


def test_one_that_is_there_is_left_alone(kernel: Path) -> None:
    _parser(kernel)
    (kernel / "profiles").write_text("docker-default (enforce)\n")
    provide_default_profile()
    assert not (kernel / "loaded").exists()


def test_nothing_is_done_without_apparmor(kernel: Path) -> None:
    _parser(kernel)
    (kernel / "profiles").unlink()
    provide_default_profile()
    assert not (kernel / "loaded").exists()


def test_a_profile_of_another_name(kernel: Path) -> None:
    """`ctr run --apparmor-default-profile NAME`."""
    _parser(kernel)
    apparmor.load_profile("mine")
    text = (kernel / "loaded").read_text()
    assert "profile mine flags=" in text and "peer=mine," in text and "docker-default" not in text
    (kernel / "profiles").unlink()
    with pytest.raises(FailedPreconditionError, match="mine cannot be loaded: the kernel does not run AppArmor"):
        apparmor.load_profile("mine")


def test_what_fails_is_logged(kernel: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="orlop.dockerd"):
        provide_default_profile()
        _parser(kernel, "echo 'syntax error' >&2; exit 1")
        provide_default_profile()
    missing, broken = (record.getMessage() for record in caplog.records)
    if not any(os.path.exists(f"{place}/apparmor_parser") for place in ("/usr/bin", "/bin")):
        assert missing.startswith("AppArmor: docker-default cannot be loaded: apparmor_parser is not installed")
    assert broken == ("AppArmor: docker-default cannot be loaded: syntax error; containers are not confined by it")
