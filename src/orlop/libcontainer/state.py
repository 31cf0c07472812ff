# SPDX-License-Identifier: Apache-2.0
"""What the runtime knows of a container: the OCI state for others, and state.json for itself."""

import os
import time

import msgspec

from orlop import codec
from orlop.libcontainer.facts import FILE, read_file
from orlop.oci.runtime import Spec


class State(msgspec.Struct, rename="camel", kw_only=True):
    """The OCI state (runtime.md) with what runc adds to it."""

    oci_version: str
    id: str
    pid: int = 0
    status: str = "creating"  # creating, created, running, paused, stopped
    bundle: str
    rootfs: str = ""
    created: str = ""  # RFC 3339
    annotations: dict[str, str] = {}
    owner: str = ""


class _HookState(msgspec.Struct, rename="camel", omit_defaults=True):
    """The part of the state that hooks get."""

    oci_version: str
    id: str
    status: str
    pid: int
    bundle: str
    annotations: dict[str, str]


class Record(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """state.json: the facts that outlive the runtime's process."""

    id: str
    bundle: str
    spec: Spec
    created: str
    init_pid: int = 0  # 0 while the container is being created
    init_start: int = 0  # start time of the process in clock ticks since boot, as in /proc/<pid>/stat
    cgroup_paths: dict[str, str] = {}
    systemd_cgroup: bool = False  # whether systemd has made the groups
    keyring: str = ""
    resctrl: str = ""  # directory of the class of service, if the spec has linux.intelRdt
    owner: int = 0
    # How many there were on the root filesystem before ours, if ours go to the same mount namespace.
    root_mounts: int | None = None


def hook_state(state: State) -> bytes:
    """The JSON that a hook gets on standard input."""
    return msgspec.json.encode(
        _HookState(state.oci_version, state.id, state.status, state.pid, state.bundle, state.annotations)
    )


class _SeccompState(msgspec.Struct, rename="camel", omit_defaults=True):
    """The container process state (config-linux.md) that a seccomp agent gets with its listener."""

    oci_version: str
    fds: list[str]
    pid: int
    state: _HookState
    metadata: str = ""


def seccomp_state(pid: int, metadata: str, state: State) -> bytes:
    """The JSON that a seccomp agent gets about process `pid`."""
    inner = _HookState(state.oci_version, state.id, state.status, state.pid, state.bundle, state.annotations)
    return msgspec.json.encode(_SeccompState(state.oci_version, ["seccompFd"], pid, inner, metadata))


def write_record(directory: str, record: Record) -> None:
    """Replace state.json in one step."""
    temporary = f"{directory}/{FILE}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(record))
    finally:
        os.close(fd)
    os.rename(temporary, f"{directory}/{FILE}")


def read_record(directory: str) -> Record:
    """The record of the container in `directory`. Raises NotFoundError, InvalidArgumentError."""
    return codec.decode(read_file(directory), Record)


def timestamp() -> str:
    """Now, as RFC 3339 with nanoseconds."""
    now = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9)) + f".{now % 10**9:09d}Z"
