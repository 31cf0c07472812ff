# SPDX-License-Identifier: Apache-2.0
"""What dockerd knows of a container: the record that is stored."""

from typing import Any

import msgspec

from orlop.dockerd.spec.mountpoint import MountPoint
from orlop.engine.types import ContainerConfig, EndpointSettings, HostConfig


class HealthResult(msgspec.Struct, kw_only=True):
    """One run of a health check; times in nanoseconds since 1970."""

    start: int
    end: int
    exit_code: int
    output: str


class Health(msgspec.Struct, kw_only=True):
    """`status` is starting, healthy or unhealthy."""

    status: str = "starting"
    failing_streak: int = 0
    log: list[HealthResult] = []


class State(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The state as last seen; times in nanoseconds since 1970, 0 for never.

    running and restarting are both set while the restart policy waits for its next attempt, as in Docker.
    """

    running: bool = False
    paused: bool = False
    restarting: bool = False
    removing: bool = False
    dead: bool = False
    oom_killed: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: int = 0
    finished_at: int = 0
    health: Health | None = None

    @property
    def status(self) -> str:
        """Docker's word for the state."""
        if self.running:
            if self.paused:
                return "paused"
            return "restarting" if self.restarting else "running"
        if self.removing:
            return "removing"
        if self.dead:
            return "dead"
        return "exited" if self.started_at or self.finished_at else "created"


class NetworkState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The network sandbox of the running container, as the network service gave it."""

    sandbox_id: str = ""
    sandbox_key: str = ""
    """Path of the network namespace."""
    ports: dict[str, list[dict[str, str]] | None] = {}


class ExecRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An extra process of a container: what was asked for and how it went."""

    id: str
    container_id: str
    args: list[str]
    env: list[str] = []
    user: str = ""
    working_dir: str = ""
    tty: bool = False
    privileged: bool = False
    open_stdin: bool = False
    open_stdout: bool = False
    open_stderr: bool = False
    detach_keys: str = ""
    console_size: list[int] | None = None
    started: bool = False
    running: bool = False
    exit_code: int | None = None
    pid: int = 0


class ContainerRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """All that outlives dockerd about one container."""

    id: str
    name: str
    """Without the leading slash."""
    created: int
    image_id: str = ""
    """Digest of the image's configuration or manifest, as `Image` of inspect."""
    image_manifest: dict[str, Any] | None = None
    snapshotter: str = ""
    path: str = ""
    args: list[str] = []
    config: ContainerConfig
    host_config: HostConfig
    endpoints: dict[str, EndpointSettings] = {}
    """By network name: what was asked for; while running also what was given."""
    network: NetworkState = msgspec.field(default_factory=NetworkState)
    mounts: list[MountPoint] = []
    state: State = msgspec.field(default_factory=State)
    restart_count: int = 0
    manually_stopped: bool = False
    """The last stop was a user's: no restart policy undoes it, and unless-stopped remembers it."""
    runtime: str = ""
    """containerd's name of the runtime that the task was started with."""
    attach_socket: str = ""
    """Where our shim serves attached clients; empty with a foreign shim."""
    log_path: str = ""
    previous_start: int = 0
    """When the run before the latest began, nanoseconds since 1970; 0: there was none."""
    platform: str = "linux"
