# SPDX-License-Identifier: Apache-2.0
"""What state.json tells about a container that exists, without the types of the specification.

To ask for a container's state, to start, signal or delete it takes a dozen values; decoding them into types takes
a hundred times longer than reading them, because of the import.
"""

import os
from typing import TYPE_CHECKING

from orlop.errdefs import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from orlop.libcontainer.state import Record

FILE = "state.json"
NOTIFY_DIRECTORY = "notify"  # the container's /run/notify, if the runtime forwards sd_notify(3)
START_SOCKET = "start.sock"  # there is one as long as the container waits for its start

_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


class Facts:
    """Names are those of `Record` and of the specification."""

    __slots__ = (
        "annotations", "bundle", "cgroup_paths", "created", "executable", "holds", "id", "init_pid", "init_start",
        "oci_version", "own_pids", "owner", "poststart", "poststop", "rootfs", "systemd_cgroup",
    )  # fmt: skip

    def __init__(self) -> None:
        self.id = ""
        self.bundle = ""
        self.created = ""
        self.init_pid = 0
        self.init_start = 0
        self.cgroup_paths: dict[str, str] = {}
        self.systemd_cgroup = False
        self.owner = 0
        self.oci_version = ""
        self.rootfs = ""  # absolute
        self.annotations: dict[str, str] = {}
        self.executable = ""
        self.own_pids = False  # whether it has a PID namespace of its own
        self.holds = False  # more of the host than control groups: see `holdings`
        self.poststart = False  # whether there are such hooks
        self.poststop = False


def facts_of(record: "Record") -> Facts:
    """Those of a record."""
    facts, spec = Facts(), record.spec
    for name in ("id", "bundle", "created", "init_pid", "init_start", "cgroup_paths", "systemd_cgroup", "owner"):
        setattr(facts, name, getattr(record, name))
    assert spec.root is not None and spec.process is not None and spec.linux is not None
    facts.oci_version = spec.oci_version
    facts.rootfs = os.path.join(record.bundle, spec.root.path)
    facts.annotations = spec.annotations
    facts.executable = spec.process.args[0]
    facts.own_pids = any(entry.type == "pid" and not entry.path for entry in spec.linux.namespaces)
    facts.holds = bool(record.resctrl) or record.root_mounts is not None
    if spec.hooks is not None:
        facts.poststart = bool(spec.hooks.poststart)
        facts.poststop = bool(spec.hooks.poststop)
    return facts


def read_facts(directory: str) -> Facts:
    """Those of the container in `directory`. Raises NotFoundError; InvalidArgumentError for a damaged file."""
    found = _scan(read_file(directory))
    if found is not None:
        try:
            return _facts_in(found)
        except (AttributeError, KeyError, LookupError, TypeError):
            pass  # the types tell what is wrong with it
    from orlop.libcontainer.state import read_record

    return facts_of(read_record(directory))


def read_file(directory: str) -> bytes:
    """The text of a container's state.json. Raises NotFoundError."""
    try:
        with open(f"{directory}/{FILE}", "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError("container does not exist") from None


def validate_id(container_id: str) -> None:
    """A container id is a file name of letters, digits, `_+-.`. Raises InvalidArgumentError."""
    if not container_id:
        raise InvalidArgumentError("container id cannot be empty")
    if container_id in (".", "..") or not _ID_CHARACTERS.issuperset(container_id) or len(container_id) > 1024:
        raise InvalidArgumentError(f'invalid container ID format: "{container_id}"')


def process_start(pid: int) -> tuple[int, str]:
    """Start time and state letter of process `pid`; (0, "") if there is none."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0, ""
    try:
        raw = os.read(fd, 4096)
    except ProcessLookupError:
        return 0, ""
    finally:
        os.close(fd)
    # The name in parentheses may hold anything; the state letter is field 3, the start time field 22.
    fields = raw[raw.rindex(b")") + 2 :].split()
    return int(fields[19]), fields[0].decode()


class _Scanner:
    """What the scanner of the standard library's json asks its decoder for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}


def _scan(raw: bytes) -> object:
    """JSON text as dicts and lists, without the package json and the regular expressions that it imports.

    None where there is no such scanner, and for what is no JSON.
    """
    try:
        from _json import make_scanner

        text = raw.decode()
        value, end = make_scanner(_Scanner())(text, 0)  # type: ignore[arg-type]
    except (ImportError, ValueError, RecursionError, StopIteration):
        return None
    return None if text[end:].strip() else value


def _facts_in(found: object) -> Facts:
    """Those of a file as `write_record` writes it, which leaves out what equals its default."""
    if type(found) is not dict:
        raise TypeError
    facts, spec = Facts(), found["spec"]
    facts.id = found["id"]
    facts.bundle = found["bundle"]
    facts.created = found["created"]
    facts.init_pid = found.get("initPid", 0)
    facts.init_start = found.get("initStart", 0)
    facts.cgroup_paths = found.get("cgroupPaths", {})
    facts.systemd_cgroup = found.get("systemdCgroup", False)
    facts.owner = found.get("owner", 0)
    facts.oci_version = spec["ociVersion"]
    facts.rootfs = os.path.join(facts.bundle, spec["root"]["path"])
    facts.annotations = spec.get("annotations", {})
    facts.executable = spec["process"]["args"][0]
    namespaces = spec["linux"].get("namespaces", [])
    facts.own_pids = any(entry["type"] == "pid" and not entry.get("path") for entry in namespaces)
    facts.holds = bool(found.get("resctrl")) or found.get("rootMounts") is not None
    hooks = spec.get("hooks", {})
    facts.poststart = bool(hooks.get("poststart"))
    facts.poststop = bool(hooks.get("poststop"))
    usual = Facts()
    if any(type(getattr(facts, name)) is not type(getattr(usual, name)) for name in Facts.__slots__):
        raise TypeError
    return facts
