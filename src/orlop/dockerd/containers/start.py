# SPDX-License-Identifier: Apache-2.0
"""Start a container: from the record to a running task."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from google.protobuf.any_pb2 import Any

from orlop.api.containers_pb2 import Container as ContainerdContainer
from orlop.api.types_pb2 import Mount
from orlop.containerd.client import Client, typeurl
from orlop.dockerd import timestamps
from orlop.dockerd.config import Config
from orlop.dockerd.containers.container import Container
from orlop.dockerd.containers.model import ContainerRecord, Health
from orlop.dockerd.containers.paths import Paths
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.remapping import OwnNamespaces, Remapping, joined_namespace
from orlop.dockerd.containers.resources import Namespaces, Resources
from orlop.dockerd.containers.runtimes import DEFAULT, Runtime, Runtimes
from orlop.dockerd.containers.start_errors import EXIT_UNKNOWN, classify
from orlop.dockerd.containers.stdio import Stdio
from orlop.dockerd.containers.streams import Streams
from orlop.dockerd.logging.forward import Forwarding
from orlop.dockerd.spec import Host, SpecRequest, build_spec, find_init
from orlop.dockerd.users import Users
from orlop.engine.types import Ulimit
from orlop.errdefs import (
    AlreadyExistsError,
    ConflictError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    NotModifiedError,
    OrlopError,
    UnavailableError,
)
from orlop.oci.runtime import Spec, User

log = logging.getLogger("orlop.dockerd.start")

CONTAINER_LABEL = "com.docker/engine.bundle.path"
"""On containerd's records of our containers, as Docker has it."""


A = TypeVar("A")
B = TypeVar("B")


class Start:
    """The use case. `remove` is called for an auto-remove container that could not start."""

    def __init__(
        self,
        registry: Registry,
        client: Client,
        resources: Resources,
        runtimes: Runtimes,
        streams: Streams,
        paths: Paths,
        host: Host,
        config: Config,
        forwarding: Forwarding,
        remapping: Remapping,
        on_running: Callable[[Container], None],
        remove: Callable[[Container], Awaitable[None]],
    ) -> None:
        self._registry = registry
        self._client = client
        self._resources = resources
        self._runtimes = runtimes
        self._streams = streams
        self._paths = paths
        self._host = host
        self._config = config
        self._forwarding = forwarding
        self._remapping = remapping
        self._on_running = on_running
        self._remove = remove
        self._users = Users()
        self._seccomp = _read_seccomp(config.seccomp_profile)

    async def __call__(self, reference: str, checkpoint: str = "") -> None:
        """Start by a user's wish. Raises NotModifiedError when it runs, and what made the start fail.

        `checkpoint` is the directory of a checkpoint to go on from. Whatever goes wrong, nothing of the attempt
        is left but the error in the state.
        """
        container = self._registry.get(reference)
        await self.start(container, by_user=True, checkpoint=checkpoint)

    async def start(self, container: Container, *, by_user: bool, checkpoint: str = "") -> None:
        """Start a container; `by_user` resets what the restart policy counts."""
        async with container.lock:
            self._check(container, by_user)
            if by_user:
                _reset_restarts(container)
            failure = await self._try(container, checkpoint)
            if failure is not None and not by_user and isinstance(failure, UnavailableError):
                # containerd is away, which is no reason to give the container up: the policy goes on trying.
                container.record.state.running = container.record.state.restarting = True
                self._registry.save(container)
                raise failure
        if failure is None:
            return
        if not by_user:
            container.tell_stopped()
        elif container.record.host_config.auto_remove:
            await self._remove(container)
        raise failure

    async def _try(self, container: Container, checkpoint: str) -> OrlopError | None:
        try:
            await self._run(container, checkpoint)
        except OrlopError as error:
            code, failure = classify(error)
            await self._undo(container, code, failure)
            return failure
        except BaseException as error:
            await asyncio.shield(self._undo(container, EXIT_UNKNOWN, error))
            raise
        return None

    def _check(self, container: Container, by_user: bool) -> None:
        state = container.record.state
        if state.removing or state.dead:
            raise ConflictError("container is marked for removal and cannot be started")
        if state.paused:
            raise ConflictError("cannot start a paused container, try unpause instead")
        if state.running and not (state.restarting):
            raise NotModifiedError(f"container {container.id} is running")
        if not by_user and (not state.restarting or container.no_restart):
            self._stay_stopped(container)
            raise NotModifiedError(f"container {container.id} was stopped")

    def _stay_stopped(self, container: Container) -> None:
        """A user's stop came between the policy's decision and this start."""
        state = container.record.state
        if state.restarting:
            state.running = state.restarting = False
            self._registry.save(container)
            container.tell_stopped()

    # -- the steps

    async def _run(self, container: Container, checkpoint: str) -> None:
        record = container.record
        container.taken_up = True
        record.state.error = ""
        record.state.oom_killed = False
        if record.state.health is not None:
            record.state.health = Health()  # what the run before was like says nothing about this one
        runtime = self._runtimes.resolve(record.host_config.runtime)
        _check_owners(record, runtime)
        await self._forwarding.begin(container)
        async with self._remapping.namespaces(
            record.host_config, self._resources.shared_user(record.host_config)
        ) as own:
            pid, started_at = await self._create(container, runtime, own, checkpoint)
        try:
            await self._client.tasks.start(record.id)
        except OrlopError as error:
            if checkpoint:
                await _drop_unrestored(self._client, record.id)
            raise type(error)(f"failed to start container: {error}") from None
        self._settle_running(container, runtime, pid, started_at)

    async def _create(
        self, container: Container, runtime: Runtime, own: OwnNamespaces, checkpoint: str
    ) -> tuple[int, int]:
        """Everything up to a task that waits for its start: its pid, and the moment in nanoseconds."""
        record = container.record
        # Side by side: the network is the kernel's work, the user is looked up in the image.
        namespaces, (mounts, user) = await _both(
            self._resources.take(container, own.network), self._rootfs(container)
        )
        spec = build_spec(self._spec_request(record, namespaces, user))
        self._add_devices(spec, record)
        shares_network = record.host_config.network_mode.startswith("container:")
        joined = joined_namespace(
            namespaces.pid, namespaces.ipc, namespaces.network if shares_network else "", own.user
        )
        await self._remapping.apply(spec, record.host_config, namespaces.network, joined)
        container.process = spec.process
        container.in_containerd = True
        await self._create_record(record, runtime, spec)
        source, stdio = await self._streams.container(record, runtime.ours)
        started_at = timestamps.now()
        mounts = self._remapping.mounts(record.host_config, mounts, ours=runtime.ours)
        options = runtime.restoring(checkpoint) if checkpoint else runtime.options
        pid = await self._create_task(record, options, mounts, stdio)
        await container.attach.open(source)
        return pid, started_at

    def _add_devices(self, spec: Spec, record: ContainerRecord) -> None:
        """What was asked of drivers: devices that files describe, GPUs. Raises InvalidArgumentError."""
        if record.host_config.device_requests:
            from orlop.dockerd.spec.cdi import requested
            from orlop.oci.cdi import Registry as DeviceRegistry

            devices = DeviceRegistry(self._config.cdi_directories)
            devices.inject(spec, requested(record.host_config.device_requests, devices))

    async def _rootfs(self, container: Container) -> tuple[Sequence[Mount], User]:
        if container.rootfs is None:
            snapshots = self._client.snapshots(container.record.snapshotter)
            container.rootfs = await snapshots.mounts(container.id)
        record = container.record
        user = await self._users.resolve(container.rootfs, record.config.user, record.host_config.group_add)
        return container.rootfs, user

    def _spec_request(self, record: ContainerRecord, namespaces: Namespaces, user: User) -> SpecRequest:
        config = self._config
        wants_init = config.init if record.host_config.init is None else record.host_config.init
        return SpecRequest(
            id=record.id,
            config=record.config,
            host_config=record.host_config,
            host=self._host,
            args=[record.path, *record.args],
            user=user,
            mounts=record.mounts,
            hostname_path=namespaces.hostname_file,
            hosts_path=namespaces.hosts_file,
            resolv_conf_path=namespaces.resolv_conf_file,
            shm_path=namespaces.shm,
            network_namespace_path=namespaces.network,
            pid_namespace_path=namespaces.pid,
            ipc_namespace_path=namespaces.ipc,
            cgroup_parent=config.cgroup_parent or ("system.slice" if config.systemd_cgroup else "/docker"),
            systemd_cgroup=config.systemd_cgroup,
            time_namespace=config.features.get("time-namespaces", False),
            init_path=(config.init_path or find_init()) if wants_init else "",
            default_init=config.init,
            default_ulimits=[
                Ulimit(name=limit.name or name, soft=limit.soft, hard=limit.hard)
                for name, limit in config.default_ulimits.items()
            ],
            no_new_privileges=config.no_new_privileges,
            seccomp_profile=self._seccomp,
            link_env=self._resources.link_variables(record),
        )

    async def _create_record(self, record: ContainerRecord, runtime: Runtime, spec: Spec) -> None:
        wanted = ContainerdContainer(
            id=record.id,
            labels={CONTAINER_LABEL: str(self._paths.volatile(record.id))},
            image=record.config.image if record.config.image.count("/") > 1 else "",
            runtime=ContainerdContainer.Runtime(name=runtime.name, options=runtime.options),
            spec=typeurl.pack_json(typeurl.SPEC, spec),
            snapshotter=record.snapshotter,
            snapshot_key=record.id,
        )
        try:
            await self._client.containers.create(wanted)
        except AlreadyExistsError:
            # Left by a run whose end was not settled: a crash of the daemon at the wrong moment.
            await discard_task(self._client, record.id)
            await self._client.containers.delete(record.id)
            await self._client.containers.create(wanted)

    async def _create_task(
        self, record: ContainerRecord, options: Any, mounts: Sequence[Mount], stdio: Stdio
    ) -> int:
        try:
            return await self._client.tasks.create(
                record.id,
                rootfs=mounts,
                stdin=stdio.stdin,
                stdout=stdio.stdout,
                stderr=stdio.stderr,
                terminal=stdio.terminal,
                options=options,
            )
        except OrlopError as error:
            raise type(error)(f"failed to create task for container: {error}") from None

    def _settle_running(self, container: Container, runtime: Runtime, pid: int, started_at: int) -> None:
        record = container.record
        record.runtime = runtime.name
        state = record.state
        state.running, state.restarting, state.paused = True, False, False
        state.pid, state.exit_code = pid, 0
        record.previous_start = state.started_at
        state.started_at = started_at  # and finished_at tells of the run before, as with Docker
        self._registry.save(container)
        self._registry.publish(container, "start")
        self._forwarding.follow(container)
        self._on_running(container)

    # -- failure

    async def _undo(self, container: Container, exit_code: int, error: BaseException) -> None:
        record, state = container.record, container.record.state
        state.exit_code = exit_code
        state.error = str(error) if isinstance(error, OrlopError) else f"interrupted: {type(error).__name__}"
        state.running = state.restarting = False
        state.pid = 0
        await container.attach.abandon()
        for step in (discard(self._client, container), self._resources.give_back(container)):
            try:
                await step
            except OrlopError as left:
                log.warning("container %s: after its failed start: %s", record.id, left)
        self._registry.save(container)


def _check_owners(record: ContainerRecord, runtime: Runtime) -> None:
    """Other runtimes may know nothing of a mount's mappings, and would go on without them."""
    for point in record.mounts:
        if point.spec is not None and point.spec.owner is not None and not runtime.in_process:
            raise InvalidArgumentError(
                f"mount {point.destination}: uid and gid need the runtime {DEFAULT}; this container's is "
                f"{record.host_config.runtime or runtime.name}"
            )


def _reset_restarts(container: Container) -> None:
    """A start by a user: what the restart policy has counted and planned is void."""
    if container.restart is not None:
        container.restart.cancel()
        container.restart = None
    container.no_restart = False
    container.backoff = 0.0
    container.record.manually_stopped = False
    container.record.restart_count = 0


async def discard(client: Client, container: Container) -> None:
    """Kill and delete whatever containerd has of a container. Raises OrlopError.

    The record goes last: as long as it is there, the sweep finds what is left.
    """
    if container.in_containerd:
        await discard_task(client, container.id)
        await delete_record(client, container)


async def delete_record(client: Client, container: Container) -> None:
    """Delete containerd's record of a container, if there may be one. Raises OrlopError."""
    if not container.in_containerd:
        return
    try:
        await client.containers.delete(container.id)
    except NotFoundError:
        pass
    container.in_containerd = False


async def discard_task(client: Client, container_id: str) -> None:
    """Kill and delete whatever task a container has. Raises OrlopError other than NotFoundError."""
    try:
        await client.tasks.kill(container_id, 9, all=True)
    except NotFoundError:
        pass  # no task, or one that has ended already
    try:
        await client.tasks.wait(container_id)
        await client.tasks.delete(container_id)
    except NotFoundError:
        return


async def _drop_unrestored(client: Client, container_id: str) -> None:
    """Go's shim never tells the end of a process that could not be restored: it must not be waited for."""
    try:
        await client.tasks.delete(container_id)
    except OrlopError as error:
        log.debug("container %s: its task after a failed restore: %s", container_id, error)


async def _both(first: Awaitable[A], second: Awaitable[B]) -> tuple[A, B]:
    """Both results; on an error of one the other still runs to its end, for it may hold things."""
    one, two = await asyncio.gather(first, second, return_exceptions=True)
    if isinstance(one, BaseException):
        raise one
    if isinstance(two, BaseException):
        raise two
    return one, two


def _read_seccomp(profile: str) -> str:
    if profile in ("", "builtin", "unconfined"):
        return profile
    try:
        with open(profile, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise InternalError(f"seccomp-profile: {error}") from None
