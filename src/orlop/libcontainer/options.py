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
    notify_directory: bool = False  # make one below the state directory, for the spec's mounts to name
    no_cgroup: bool = False  # the container stays in the caller's control groups
    rootless: bool | None = None  # go on without control groups that may not be made; None: where that is likely


class CriuOptions(msgspec.Struct, kw_only=True):
    """What checkpoint and restore have in common; the names are those of criu(8)."""

    image_path: str  # directory of the images
    work_path: str = ""  # directory of logs, that of the images if empty
    tcp_established: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    file_locks: bool = False
    manage_cgroups_mode: str = ""  # soft, full, strict, ignore
    empty_ns: list[str] = []  # network
    auto_dedup: bool = False
    lazy_pages: bool = False
    network_lock: str = ""  # iptables, nftables, skip


class CheckpointOptions(CriuOptions, kw_only=True):
    """How Container.checkpoint writes a container down."""

    leave_running: bool = False
    pre_dump: bool = False  # memory alone, as a parent for later images
    parent_path: str = ""  # earlier images, relative to `image_path`
    page_server: str = ""  # ADDRESS:PORT
    status_fd: int = -1  # gets a null byte once lazy pages are served
    tcp_skip_in_flight: bool = False
    link_remap: bool = False


class RestoreOptions(CriuOptions, kw_only=True):
    """How Container.restore brings one back."""

    tcp_close: bool = False  # connections come back closed
    lsm_profile: str = ""  # TYPE:NAME
    lsm_mount_context: str = ""


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
