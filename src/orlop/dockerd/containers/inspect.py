# SPDX-License-Identifier: Apache-2.0
"""A container's record as the Engine API shows it."""

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from orlop.containerd.client import Client
from orlop.dockerd import timestamps
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.escape import parse_keys
from orlop.dockerd.containers.model import ContainerRecord, ExecRecord, Health, State
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.sizes import Sizes, sizes
from orlop.dockerd.spec.host import Host
from orlop.dockerd.spec.security import apparmor_profile, security_options
from orlop.engine.types import HostConfig

View = dict[str, Any]

_OF_WINDOWS = {"CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0}


class Inspect:
    """The use case."""

    def __init__(self, registry: Registry, client: Client, paths: Paths, host: Host) -> None:
        self._registry = registry
        self._client = client
        self._paths = paths
        self._host = host

    async def __call__(self, reference: str, *, size: bool = False) -> View:
        """GET /containers/{id}/json as of the latest API version. Raises NotFoundError."""
        container = self._registry.get(reference)
        record = container.record
        shown: View = {
            "Id": record.id,
            "Created": timestamps.rfc3339(record.created),
            "Path": record.path,
            "Args": record.args,
            "State": state_view(record.state),
            "Image": record.image_id,
            "ResolvConfPath": self._existing(record.id, "resolv.conf"),
            "HostnamePath": self._existing(record.id, "hostname"),
            "HostsPath": self._existing(record.id, "hosts"),
            "LogPath": record.log_path if record.state.started_at or record.state.error else "",
            "Name": f"/{record.name}",
            "RestartCount": record.restart_count,
            "Driver": record.snapshotter,
            "Platform": record.platform,
            "MountLabel": "",
            "ProcessLabel": "",
            "AppArmorProfile": self._apparmor(record),
            "ExecIDs": [id_ for id_, extra in container.execs.items() if extra.record.running] or None,
            "HostConfig": host_config_view(record.host_config),
            "Storage": {"RootFS": {"Snapshot": {"Name": record.snapshotter}}},
            "GraphDriver": {"Name": record.snapshotter, "Data": None},
            "Mounts": [point.inspect() for point in record.mounts],
            "Config": config_view(container),
            "NetworkSettings": network_view(container),
            "ImageManifestDescriptor": record.image_manifest,
        }
        if size:
            shown["SizeRw"], shown["SizeRootFs"] = (await self.sizes([container]))[0]
        return shown

    def _apparmor(self, record: ContainerRecord) -> str:
        """As with Docker: before the first start only what was asked for."""
        options = security_options(record.host_config)
        if not record.state.started_at:
            return options.apparmor
        return apparmor_profile(options, record.host_config.privileged, self._host)

    async def sizes(self, containers: Sequence[Container]) -> list[Sizes]:
        """Bytes that each container has written, and these plus its image's."""
        return await sizes(self._client, containers)

    def _existing(self, container_id: str, name: str) -> str:
        path = self._paths.data(container_id) / name
        return str(path) if path.exists() else ""


def state_view(state: State) -> View:
    """`State` of inspect."""
    shown: View = {
        "Status": state.status,
        "Running": state.running,
        "Paused": state.paused,
        "Restarting": state.restarting,
        "OOMKilled": state.oom_killed,
        "Dead": state.dead,
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": timestamps.rfc3339(state.started_at),
        "FinishedAt": timestamps.rfc3339(state.finished_at),
    }
    if state.health is not None:
        shown["Health"] = health_view(state.health)
    return shown


def health_view(health: Health) -> View:
    """`State.Health` of inspect."""
    return {
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": timestamps.rfc3339(result.start),
                "End": timestamps.rfc3339(result.end),
                "ExitCode": result.exit_code,
                "Output": result.output,
            }
            for result in health.log
        ],
    }


def config_view(container: Container) -> View:
    """`Config` of inspect: what is unset and optional is left out, as Docker does."""
    shown: View = msgspec.to_builtins(container.record.config)
    for name in ("MacAddress", "NetworkDisabled", "ArgsEscaped", "StopSignal", "ExposedPorts"):
        if not shown[name]:
            del shown[name]
    for name in ("Healthcheck", "OnBuild", "StopTimeout", "Shell"):
        if shown[name] is None:
            del shown[name]
    shown["Volumes"] = shown["Volumes"] or None
    return shown


def host_config_view(host_config: HostConfig) -> View:
    """`HostConfig` of inspect: with the zeros of what only Windows has, and without what is unset and optional."""
    shown: View = msgspec.to_builtins(host_config)
    for name in ("Annotations", "Init", "Mounts", "StorageOpt", "Sysctls", "Tmpfs"):
        if shown[name] is None or shown[name] in ({}, []):
            del shown[name]
    return shown | _OF_WINDOWS


def network_view(container: Container) -> View:
    """`NetworkSettings` of inspect."""
    record = container.record
    return {
        "SandboxID": record.network.sandbox_id,
        "SandboxKey": record.network.sandbox_key,
        "Ports": record.network.ports,
        "Networks": {name: msgspec.to_builtins(settings) for name, settings in record.endpoints.items()},
    }


def exec_view(record: ExecRecord) -> View:
    """GET /exec/{id}/json."""
    config: View = {"tty": record.tty, "entrypoint": record.args[0], "arguments": record.args[1:]}
    config["privileged"] = record.privileged
    if record.user:
        config["user"] = record.user
    return {
        "ID": record.id,
        "Running": record.running,
        "ExitCode": record.exit_code,
        "ProcessConfig": config,
        "OpenStdin": record.open_stdin,
        "OpenStderr": record.open_stderr,
        "OpenStdout": record.open_stdout,
        "CanRemove": False,
        "ContainerID": record.container_id,
        "DetachKeys": base64.b64encode(parse_keys(record.detach_keys)).decode() if record.detach_keys else "",
        "Pid": record.pid,
    }
