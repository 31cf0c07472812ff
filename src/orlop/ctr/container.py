# SPDX-License-Identifier: Apache-2.0
"""Make a container from an image or a root file system, as `ctr run` and `ctr containers create` do."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from orlop import codec
from orlop.api.containers_pb2 import Container
from orlop.api.runc_options_pb2 import Options
from orlop.api.runtime_options_pb2 import Options as ConfigOptions
from orlop.containerd.client import typeurl
from orlop.containerd.client.leases import leased
from orlop.ctr.flags import Flag
from orlop.ctr.labels import STOP_SIGNAL_LABEL, label_arguments
from orlop.ctr.remap import prepare_rootfs
from orlop.ctr.spec import build_spec
from orlop.ctr.users import mounted, resolve_user
from orlop.errdefs import InvalidArgumentError, NotFoundError, NotImplementedByUsError
from orlop.oci.image import chain_ids
from orlop.oci.platforms import host_platform, parse_platform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.any_pb2 import Any

    from orlop.containerd.client import Client
    from orlop.containerd.client.unpack import ImageContent
    from orlop.ctr.flags import Values
    from orlop.oci.runtime import Spec

# Labels that containerd and its plugins act upon: an image must not set them on a container.
_RESERVED = ("containerd.io/", "io.containerd.", "io.cri-containerd")

RUNTIME_FLAGS = (
    Flag("runtime", str, "io.containerd.runc.v2", "runtime name or absolute path to runtime binary"),
    Flag("runtime-config-path", help="optional runtime config path"),
    Flag("runc-binary", help="specify runc-compatible binary"),
    Flag("runc-root", help="specify runc-compatible root"),
    Flag("runc-systemd-cgroup", bool, help="start runc with systemd cgroup manager"),
)
CONTAINER_FLAGS = (
    *RUNTIME_FLAGS,
    Flag("snapshotter", help="snapshotter name; empty stands for the default", env="CONTAINERD_SNAPSHOTTER"),
    Flag("snapshotter-label", list, help="labels added to the new snapshot for this container"),
    Flag("config c", help="path to the runtime-specific spec config file"),
    Flag("cwd", help="specify the working directory of the process"),
    Flag("env", list, help="specify additional container environment variables (e.g. FOO=bar)"),
    Flag("env-file", help="specify additional container environment variables in a file"),
    Flag("label", list, help="specify additional labels (e.g. foo=bar)"),
    Flag("annotation", list, help="specify additional OCI annotations (e.g. foo=bar)"),
    Flag("mount", list, help="additional container mount (e.g. type=bind,src=/tmp,dst=/host,options=rbind:ro)"),
    Flag("net-host", bool, help="enable host networking for the container"),
    Flag("privileged", bool, help="run privileged container"),
    Flag("privileged-without-host-devices", bool, help="don't pass all host devices to privileged container"),
    Flag("read-only", bool, help="set the containers filesystem as readonly"),
    Flag("tty t", bool, help="allocate a TTY for the container"),
    Flag("with-ns", list, help="specify existing Linux namespaces to join (format '<nstype>:<path>')"),
    Flag("pid-file", help="file path to write the task's pid"),
    Flag("allow-new-privs", bool, help="turn off OCI spec's NoNewPrivileges feature flag"),
    Flag("memory-limit", int, help="memory limit (in bytes) for the container"),
    Flag("cap-add", list, help="add Linux capabilities (set capabilities with 'CAP_' prefix)"),
    Flag("cap-drop", list, help="drop Linux capabilities (set capabilities with 'CAP_' prefix)"),
    Flag("seccomp", bool, help="enable the default seccomp profile"),
    Flag("seccomp-profile", help="file path to custom seccomp profile"),
    Flag("apparmor-profile", help="enable AppArmor with an existing custom profile"),
    Flag(
        "apparmor-default-profile",
        help="enable AppArmor with the default profile under this name, loaded if it is not",
    ),
    Flag("blockio-config-file", help="file of block I/O classes (not supported)"),
    Flag("blockio-class", help="block I/O class of the container (not supported)"),
    Flag("hostname", help="set the container's host name"),
    Flag("user u", help="username or user id, group optional (format: <name|uid>[:<group|gid>])"),
    Flag("rootfs", bool, help="use custom rootfs that is not managed by containerd snapshotter"),
    Flag("no-pivot", bool, help="disable use of pivot-root"),
    Flag("cpus", float, help="set the CFS cpu quota"),
    Flag("cpu-shares", int, 1024, help="set the cpu shares"),
    Flag("cpu-quota", int, -1, "limit CPU CFS quota"),
    Flag("cpu-period", int, help="limit CPU CFS period"),
    Flag("cpuset-cpus", help="set the CPUs the container will run in (e.g. 1-2,4)"),
    Flag("cpuset-mems", help="set the memory nodes the container will run in (e.g. 1-2,4)"),
    Flag("rlimit-nofile", help="set RLIMIT_NOFILE (soft:hard)"),
    Flag("rootfs-propagation", help="set the propagation of the container rootfs"),
    Flag("device", list, help="device to add: a path, or vendor.com/class=name as a CDI file describes it"),
    Flag("cgroup", help='cgroup path (to disable use of cgroup, set to "" explicitly)'),
    Flag("platform", help="run image for specific platform"),
    Flag("sandbox", help="create the container in the given sandbox"),
    Flag("rdt-class", help="name of the RDT class to associate the container with"),
    Flag("cni", bool, help="enable cni networking for the container"),
    Flag("gpus", list, help="add gpus to the container (where a CDI file describes them)"),
    Flag("remap-labels", bool, help="let the snapshotter map the ids of the image's files"),
    Flag("sync-fs", bool, help="synchronize the underlying filesystem when unpacking the image"),
    Flag("uidmap", list, help="user namespace mapping (container-uid:host-uid:length)"),
    Flag("gidmap", list, help="user namespace mapping (container-gid:host-gid:length)"),
)


async def create_container(client: Client, values: Values) -> Container:
    """Store the container that the flags and arguments describe, with a snapshot of its own for an image.

    On failure no snapshot is left. Raises InvalidArgumentError, NotFoundError, AlreadyExistsError.
    """
    if values["config"]:
        (id,) = values.need("container id")
        with open(values["config"], "rb") as file:
            return await client.containers.create(_record(values, id, file.read()))
    for flag in ("blockio-config-file", "blockio-class"):
        if values[flag]:
            raise NotImplementedByUsError(f"{flag}: classes of block I/O")
    source, id = values.need("rootfs" if values["rootfs"] else "image ref", "container id")
    arguments = values.arguments[2:]
    if values["rootfs"]:
        return await client.containers.create(
            _record(values, id, _rootfs_spec(client, values, source, id, arguments))
        )
    async with leased(client) as work:
        return await _create_from_image(work, values, source, id, arguments)


def _rootfs_spec(client: Client, values: Values, source: str, id: str, arguments: list[str]) -> bytes:
    spec = build_spec(values, id, client.namespace, None, arguments)
    assert spec.root is not None
    spec.root.path = os.path.abspath(source)

    @contextmanager
    def directory() -> Iterator[str]:
        yield os.path.abspath(source)

    assert spec.process is not None
    if values["user"]:
        spec.process.user = resolve_user(values["user"], directory)
    return codec.encode(spec)


async def _create_from_image(
    client: Client, values: Values, name: str, id: str, arguments: list[str]
) -> Container:
    from orlop.containerd.client.unpack import from_proto, read_image, unpack

    platform = parse_platform(values["platform"]) if values["platform"] else host_platform()
    image = await client.images.get(name)
    content = await read_image(client, from_proto(image.target), platform)
    await unpack(client, content, values["snapshotter"], sync=values["sync-fs"])
    spec = build_spec(values, id, client.namespace, content.image.config, arguments)
    await _set_user(client, values, content, id, spec)
    record = _record(values, id, codec.encode(spec))
    record.image = name
    record.snapshotter, record.snapshot_key = values["snapshotter"], id
    record.labels[STOP_SIGNAL_LABEL] = content.image.config.stop_signal or "SIGTERM"
    for key, value in {**content.image.config.labels, **image.labels}.items():
        if key not in record.labels and not key.startswith(_RESERVED):
            record.labels[key] = value
    snapshots = client.snapshots(values["snapshotter"])
    parent = chain_ids(content.image.rootfs.diff_ids)[-1]
    await prepare_rootfs(snapshots, id, parent, values)
    try:
        return await client.containers.create(record)
    except BaseException:
        await snapshots.remove(id)
        raise


async def _set_user(client: Client, values: Values, content: ImageContent, id: str, spec: Spec) -> None:
    user = values["user"] or content.image.config.user
    if not user:
        return
    snapshots = client.snapshots(values["snapshotter"])
    key = f"{id}-users"
    mounts = await snapshots.view(key, chain_ids(content.image.rootfs.diff_ids)[-1])
    try:
        assert spec.process is not None
        spec.process.user = resolve_user(user, lambda: mounted(mounts))
    finally:
        await snapshots.remove(key)


def _record(values: Values, id: str, spec: bytes) -> Container:
    options = runtime_options(values, no_pivot=values["no-pivot"])
    return Container(
        id=id,
        labels=label_arguments(values["label"]),
        runtime=Container.Runtime(name=values["runtime"], options=options),
        spec=typeurl.pack_json(typeurl.SPEC, spec),
        sandbox=values["sandbox"],
    )


def runtime_options(values: Values, *, no_pivot: bool = False) -> Any | None:
    """The runtime's options by the flags. Raises InvalidArgumentError for flags that the runtime does not know."""
    runtime = values["runtime"]
    if values["runtime-config-path"]:
        return typeurl.pack(ConfigOptions(config_path=values["runtime-config-path"]))
    runc = Options(
        no_pivot_root=no_pivot,
        binary_name=values["runc-binary"],
        root=values["runc-root"],
        systemd_cgroup=values["runc-systemd-cgroup"],
    )
    if runc == Options():
        return None
    if runtime not in ("io.containerd.runc.v2", "io.containerd.orlop.v2"):
        raise InvalidArgumentError(f"runtime {runtime}: takes none of no-pivot and runc-*")
    return typeurl.pack(runc)


async def remove_container(client: Client, id: str) -> None:
    """Undo `create_container`."""
    container = await client.containers.get(id)
    if container.snapshot_key:
        try:
            await client.snapshots(container.snapshotter).remove(container.snapshot_key)
        except NotFoundError:
            pass  # it was removed by hand
    await client.containers.delete(id)
