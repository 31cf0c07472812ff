# SPDX-License-Identifier: Apache-2.0
"""state.json read without types says the same as with them, and what is wrong with one is said by the types."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.bundles import example_spec

from orlop.codec import convert
from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.libcontainer import facts
from orlop.libcontainer.facts import Facts, facts_of, read_facts
from orlop.libcontainer.state import Record, read_record, write_record
from orlop.oci.runtime import Spec


def _write(directory: Path, changes: dict[str, object], spec: dict[str, object]) -> None:
    record = Record(
        id="one", bundle="/bundle", created="2026-01-01T00:00:00Z", spec=convert(example_spec() | spec, Spec)
    )
    for name, value in changes.items():
        setattr(record, name, value)
    write_record(str(directory), record)


def _values(found: Facts) -> dict[str, object]:
    return {name: getattr(found, name) for name in Facts.__slots__}


@pytest.mark.parametrize(
    ("changes", "spec"),
    [
        ({}, {}),
        ({"init_pid": 7, "init_start": 2**60, "owner": 1000, "cgroup_paths": {"": "/sys/fs/cgroup/a b"}}, {}),
        ({"resctrl": "/sys/fs/resctrl/x"}, {"annotations": {"é": 'quo"te\\\n', "empty": ""}}),
        ({"root_mounts": 0, "systemd_cgroup": True}, {"linux": {"namespaces": [{"type": "mount"}]}}),
        ({}, {"linux": {"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]}, "root": {"path": "/r"}}),
        ({}, {"hooks": {"poststop": [{"path": "/bin/true"}]}}),
        ({}, {"hooks": {"poststart": [{"path": "/bin/true"}], "prestart": [{"path": "/bin/true"}]}}),
    ],
)
def test_the_same_without_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], spec: dict[str, object]
) -> None:
    _write(tmp_path, changes, spec)
    monkeypatch.setattr(facts, "facts_of", None)  # nobody asks the types
    found = _values(read_facts(str(tmp_path)))
    assert found == _values(facts_of(read_record(str(tmp_path))))


def test_without_the_scanner_the_types_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, {"init_pid": 7}, {})
    monkeypatch.setattr(facts, "_scan", lambda raw: None)
    assert read_facts(str(tmp_path)).init_pid == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "invalid record"),
        ("[" * 100_000, "invalid record"),
        ("[]", "invalid record"),
        ("{}", "invalid record.*missing required field"),
        ('{"id": "one"} trailing', "invalid record"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(InvalidArgumentError, match=words):
        read_facts(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value"), [("initPid", "7"), ("initPid", True), ("cgroupPaths", []), ("id", 1), ("owner", None)]
)
def test_values_of_other_types_are_refused_by_name(tmp_path: Path, name: str, value: object) -> None:
    _write(tmp_path, {}, {})
    path = tmp_path / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    if value is None:  # as everywhere, null counts as absent
        assert read_facts(str(tmp_path)).owner == 0
        return
    with pytest.raises(InvalidArgumentError, match=rf"\$\.{name}"):
        read_facts(str(tmp_path))


def test_without_a_file_there_is_no_container(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="container does not exist"):
        read_facts(str(tmp_path / "none"))
