# SPDX-License-Identifier: Apache-2.0
"""Random input for everything that parses: no traceback ever reaches a user."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from fuzz import targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bundles import Bundle, Runtime

from orlop.oci.runtime import Spec
from orlop.runc.commands import COMMANDS

_FAST = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
_LONG = settings(_FAST, max_examples=3000, derandomize=False)

_NASTY = [
    0, -1, 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -(2**63) - 1, 1.5, True, None,
    "", " ", "\0", "/", "..", "../..", "a\nb", "a\rb", "\ud7ff", "\u00b2", "\uff11", "%s", "x" * 70000, "1", "-1",
    [], {}, [None], [[]], {"": ""}, "rbind", "SCMP_ACT_ERRNO", "0-99999999999", "1-0", ",", "kernel.x", "net.x\0",
    "/proc/x", "/dev",
]  # fmt: skip

_value = st.sampled_from(_NASTY) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


def _with(document: Any, changes: list[tuple[tuple[Any, ...], Any]]) -> Any:
    document = copy.deepcopy(document)
    for path, value in changes:
        place = document
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change has taken the place away
    return document


def _mutations(name: str) -> st.SearchStrategy[bytes]:
    """Well-formed documents with a few values exchanged."""
    documents = [json.loads(seed) for seed in targets.seeds(name)]
    if name == "config":
        documents = [_everything(documents[0])]

    def change(document: Any) -> st.SearchStrategy[bytes]:
        places = list(_places(document))
        changes = st.lists(st.tuples(st.sampled_from(places), _value), min_size=1, max_size=3)
        return changes.map(lambda found: json.dumps(_with(document, found)).encode("utf-8", "surrogatepass"))

    return st.sampled_from(documents).flatmap(change)


def _everything(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec in which every property stands, so that each can be exchanged."""
    limits = json.loads(targets.seeds("resources")[0])
    hook = {"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 1}
    spec["linux"].update(
        resources=limits, seccomp=json.loads(targets.seeds("seccomp")[0]), sysctl={"net.ipv4.ip_forward": "1"},
        uidMappings=[{"containerID": 0, "hostID": 0, "size": 1}], cgroupsPath="/fuzz/x",
        gidMappings=[{"containerID": 0, "hostID": 0, "size": 1}],
        devices=[{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0}],
        netDevices={"none0": {"name": "x"}}, intelRdt={"closID": "x", "schemata": ["L3:0=f"]},
        memoryPolicy={"mode": "MPOL_BIND", "nodes": "0"}, personality={"domain": "LINUX"}, mountLabel="x",
        rootfsPropagation="rprivate", timeOffsets={"monotonic": {"secs": 1}},
    )  # fmt: skip
    spec["process"].update(
        scheduler={"policy": "SCHED_OTHER", "nice": 0}, ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 1},
        execCPUAffinity={"initial": "0"}, oomScoreAdj=0, consoleSize={"height": 1, "width": 1},
        apparmorProfile="x", selinuxLabel="x",
    )  # fmt: skip
    spec["linux"]["namespaces"] += [{"type": "user"}, {"type": "time"}]
    spec["hooks"] = {kind: [hook] for kind in ("prestart", "createRuntime", "poststop")}
    spec["annotations"] = {"a": "b"}
    spec["domainname"] = "x"
    return spec


def test_the_seed_names_what_the_types_name() -> None:
    """Otherwise a property would not be exchanged."""
    spec = _everything(json.loads(targets.seeds("config")[0]))
    assert set(Spec.__struct_encode_fields__) == set(spec)


@pytest.fixture(scope="module", autouse=True)
def _clean() -> Iterator[None]:
    yield
    for directory in targets._directory:
        shutil.rmtree(directory)
    targets._directory.clear()


# What takes much of the spec away may be reported by what is left of it: the namespaces that it needs.
_ABOVE = {"linux": "hostname", "namespaces": "namespace"}
_WRONG = [-1, 2**64, 1.5, True, "", "\0", "..", "x", [], {}, "0-99999999999"]


@pytest.mark.parametrize("wrong", _WRONG, ids=repr)
def test_each_error_names_the_property(wrong: Any) -> None:
    """Every property of config.json in turn has a value that some kind of property cannot have."""
    document = _everything(json.loads(targets.seeds("config")[0]))
    assert targets.refusal(json.dumps(document).encode()) is None, "the document itself is well formed"
    refused = 0
    for path in _places(document):
        keys = [key for key in path if isinstance(key, str)]
        text = targets.refusal(json.dumps(_with(document, [(path, wrong)])).encode())
        if text is not None:
            refused += 1
            words = {*keys[-2:], _ABOVE.get(keys[-1], keys[-1])}
            assert any(word.lower() in text.lower() for word in words), (path, wrong, text)
    assert refused > 20


_DOCUMENTS = ("config", "resources", "seccomp")


@pytest.mark.parametrize("name", targets.TARGETS)
def test_any_bytes(name: str) -> None:
    def attempt(data: bytes) -> None:
        targets.TARGETS[name](data)

    _FAST(given(st.binary(max_size=300) | st.text(max_size=100).map(lambda t: t.encode()))(attempt))()


@pytest.mark.parametrize("name", _DOCUMENTS)
def test_documents_with_values_exchanged(name: str) -> None:
    _FAST(given(_mutations(name))(targets.TARGETS[name]))()


_IDS = st.sampled_from(
    ["0", "1000", "-1", "+1", " 1", "2147483648", "4294967295", "9" * 4301, "\uff11", "\u00b2", "0x1", "", "x"]
)
_NAMES = st.sampled_from(["root", "jo", "1000", "staff", "", "#", "\x85", "\r", "jo\u2028", "-"])
_FIELDS = st.tuples(_NAMES, st.just("x"), _IDS, _IDS | _NAMES, st.just(""), st.just("/home"), st.just("/bin/sh"))
_ROWS = st.lists(st.tuples(_FIELDS, st.integers(1, 7)).map(lambda row: ":".join(row[0][: row[1]])), max_size=6)
_NUMBERS = st.sampled_from(
    [
        "1",
        "-1",
        "1.5g",
        "1e999",
        "inf",
        "nan",
        "-inf",
        "9" * 5000,
        "0x1f",
        "0b1",
        "1_000",
        "\u00b2",
        "",
        "k",
        "1kk",
        "1e5",
    ]
)


def test_device_numbers_beyond_the_kernels() -> None:
    """Found by a long run."""
    for number in (2**31 - 1, 2**31, -2, 2**64):
        rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": number, "access": "r"}]
        targets.resources(json.dumps({"devices": rules}).encode())


def test_user_databases() -> None:
    _FAST(given(_ROWS.map(lambda rows: "\n".join(rows).encode()))(targets.users))()
    _FAST(
        given(st.tuples(_ROWS, _ROWS))(lambda two: targets.user_databases(*("\n".join(r).encode() for r in two)))
    )()


def test_command_lines() -> None:
    known = sorted({f"--{flag[0]}" for command in COMMANDS.values() for flag in command[5]})
    words = st.lists(st.sampled_from(known) | _NUMBERS | st.sampled_from(["--", "-", "x", "-u=1"]), max_size=8)
    _FAST(given(words.map(lambda found: "\0".join(found).encode()))(targets.command_line))()
    for flag in COMMANDS["update"][5]:
        pairs = _NUMBERS.map(lambda number, name=flag[0]: f"--{name}={number}".encode())
        settings(_FAST, max_examples=20)(given(pairs)(targets.command_line))()


def test_mount_tables() -> None:
    words = st.sampled_from(
        ["a", " ", "\n", "\r", "\x85", "\x0b", "\u2028", " - cgroup cgroup rw,memory", "\\040", ":", "\0"]
    )
    _FAST(given(st.lists(words, max_size=12).map(lambda found: "".join(found).encode()))(targets.mountinfo))()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", targets.TARGETS)
def test_much_more(name: str) -> None:
    data = st.binary(max_size=2000) | _mutations(name) if name in _DOCUMENTS else st.binary(max_size=2000)
    _LONG(given(data)(targets.TARGETS[name]))()


# -- the whole command ----------------------------------------------------------------------------


def _attempt_to_create(ours: Runtime, bundle: Bundle, text: bytes) -> None:
    with open(f"{bundle.path}/config.json", "wb") as file:
        file.write(text)
    container = "fuzzed"
    result = ours("create", "--bundle", bundle.path, container, stdin="")
    assert "Traceback" not in result.err
    if result.status == 0:
        ours("delete", "--force", container).ok()
        return
    assert result.status == 1
    assert [line for line in result.err.splitlines() if "level=error" in line], result.err
    assert not os.path.exists(f"{ours.root}/{container}")
    with open("/proc/self/mountinfo", encoding="utf-8", newline="\n") as file:
        assert bundle.path not in file.read()


def _examples(count: int, base: settings, ours: Runtime) -> None:
    bundle = ours.bundle()
    spec = copy.deepcopy(bundle.args("true", "").spec)
    spec["linux"]["cgroupsPath"] = "/orlop-oci/fuzzed"
    ours.ids.append("fuzzed")
    # Not to be exchanged: what would act on the machine as it should.
    kept = {("linux",), ("linux", "cgroupsPath"), ("linux", "namespaces"), ("root",), ("root", "path")}
    places = [path for path in _places(spec) if path not in kept and path[:2] != ("linux", "namespaces")]
    changes = st.lists(st.tuples(st.sampled_from(places), _value), min_size=1, max_size=2)

    def attempt(found: list[tuple[tuple[Any, ...], Any]]) -> None:
        _attempt_to_create(ours, bundle, json.dumps(_with(spec, found)).encode("utf-8", "surrogatepass"))

    settings(base, max_examples=count)(given(changes)(attempt))()


@pytest.mark.root
def test_invalid_specs_leave_nothing(ours: Runtime) -> None:
    _examples(25, _FAST, ours)


@pytest.mark.root
@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_invalid_specs_leave_nothing(ours: Runtime) -> None:
    _examples(1000, _LONG, ours)
