# SPDX-License-Identifier: Apache-2.0
"""Change the limits and the restart policy of a container."""

import msgspec

from orlop.containerd.client import Client, typeurl
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.live_mounts import LiveMounts
from orlop.dockerd.containers.live_ports import LivePorts
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.spec import Host, resources_of, validate
from orlop.engine.types import HostConfig, Mount, PortBinding, RestartPolicy, ThrottleDevice, WeightDevice
from orlop.errdefs import ConflictError, InvalidArgumentError


class UpdateRequest(msgspec.Struct, rename="pascal", omit_defaults=True):
    """Body of POST /containers/{id}/update: zero and absent mean unchanged, as with Docker."""

    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = msgspec.field(default=None, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: list[ThrottleDevice] | None = msgspec.field(default=None, name="BlkioDeviceWriteIOps")
    cpu_shares: int = 0
    nano_cpus: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory: int = 0
    memory_swap: int = 0
    memory_reservation: int = 0
    pids_limit: int | None = None
    restart_policy: RestartPolicy | None = None
    publish_add: dict[str, list[PortBinding] | None] = {}
    """Not in Docker: ports that are published, also while the container runs, as in PortBindings."""
    publish_remove: dict[str, list[PortBinding] | None] = {}
    """Not in Docker: ports that are published no more; those bindings of one, or all where none is listed."""
    mounts_add: list[Mount] = []
    """Not in Docker: mounts that come, also while the container runs."""
    mounts_remove: list[str] = []
    """Not in Docker: destinations of mounts that go."""


def without_block_devices(request: UpdateRequest) -> UpdateRequest:
    """The request as the API was before 1.55: lists of block devices could not be changed."""
    lists = [field.name for field in msgspec.structs.fields(UpdateRequest) if field.name.startswith("blkio_")]
    return msgspec.structs.replace(request, **{name: None for name in lists if name != "blkio_weight"})


class Update:
    """The use case."""

    def __init__(
        self, registry: Registry, client: Client, host: Host, mounts: LiveMounts, ports: LivePorts
    ) -> None:
        self._registry = registry
        self._client = client
        self._host = host
        self._mounts = mounts
        self._ports = ports

    async def __call__(self, reference: str, request: UpdateRequest) -> list[str]:
        """Apply at once to a running container, and write down. Raises InvalidArgumentError, ConflictError."""
        container = self._registry.get(reference)
        async with container.lock:
            record = container.record
            if record.state.removing or record.state.dead:
                raise ConflictError(f"container {container.id} is marked for removal and cannot be updated")
            changed = _changed(record.host_config, request)
            warnings = validate(None, changed, self._host, update=True)
            if record.state.running and not record.state.restarting:
                resources = typeurl.pack_json(typeurl.LINUX_RESOURCES, resources_of(changed))
                await self._client.tasks.update(container.id, resources)
            record.host_config = changed
            self._registry.save(container)
            if request.publish_add or request.publish_remove:
                await self._ports.change(container, request.publish_add, request.publish_remove)
                self._registry.save(container)
            await self._change_mounts(container, request)
        self._registry.publish(container, "update")
        return warnings

    async def _change_mounts(self, container: Container, request: UpdateRequest) -> None:
        """First what goes: its place may be what the new one wants."""
        if request.mounts_remove:
            await self._mounts.remove(container, request.mounts_remove)
            self._registry.save(container)
        if request.mounts_add:
            await self._mounts.add(container, request.mounts_add)
            self._registry.save(container)


_LIVE = ("publish_add", "publish_remove", "mounts_add", "mounts_remove")
"""What is no part of HostConfig."""


def _changed(host_config: HostConfig, request: UpdateRequest) -> HostConfig:
    changed = msgspec.structs.replace(host_config)
    if request.nano_cpus and (host_config.cpu_period or host_config.cpu_quota):
        raise InvalidArgumentError(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set"
        )
    if (request.cpu_period or request.cpu_quota) and host_config.nano_cpus:
        raise InvalidArgumentError(
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set"
        )
    for field in msgspec.structs.fields(UpdateRequest):
        value = getattr(request, field.name)
        if value and field.name not in _LIVE:
            setattr(changed, field.name, value)
    if changed.memory_swap > 0 and changed.memory > changed.memory_swap:
        raise InvalidArgumentError(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the "
            "same time"
        )
    return changed
