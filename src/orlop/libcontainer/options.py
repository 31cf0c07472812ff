# SPDX-License-Identifier: Apache-2.0
"""What a caller may say about making a container or a process beyond the spec."""

import msgspec


class Stdio(msgspec.Struct, frozen=True):
    """Descriptors of the caller that become 0, 1 and 2 of the process. They stay open in the caller."""

    stdin: int
    stdout: int
    stderr: int


class CreateOptions(msgspec.Struct, kw_only=True):
    """How Container.create makes the init process."""

    stdio: Stdio | None = None  # None: the caller's own 0, 1, 2
    console_socket: str | None = None  # path of a Unix socket that gets the terminal's master
    pidfd_socket: str | None = None  # the same for a descriptor of the process
    pid_file: str | None = None
    preserve_fds: int = 0  # descriptors 3 … of the caller that the process keeps
    no_pivot: bool = False
    no_new_keyring: bool = False
    systemd_cgroup: bool = False
    rootless: bool | None = None  # go on without control groups that may not be made; None: where that is likely


class ExecOptions(msgspec.Struct, kw_only=True):
    """How Container.exec makes another process."""

    stdio: Stdio | None = None
    console_socket: str | None = None
    pidfd_socket: str | None = None  # the same for a descriptor of the process
    pid_file: str | None = None
    preserve_fds: int = 0
    ignore_paused: bool = False
    cgroup: str = ""  # below the container's own, an existing one


class ExecResult(msgspec.Struct, frozen=True):
    """A started process: a child of the caller, and the terminal's master if the caller keeps it."""

    pid: int
    console: int | None = None
