# SPDX-License-Identifier: Apache-2.0
"""Making a container's init process, as the caller of Container.create sees it (`init` is the other side)."""

import _socket
import os
from typing import TYPE_CHECKING

from orlop import cgroups
from orlop.libcontainer import namespaces, parent, prepare, rootless, sync
from orlop.libcontainer.facts import START_SOCKET, process_start
from orlop.libcontainer.hooks import run_hooks
from orlop.libcontainer.init import InitPlan, run_init
from orlop.libcontainer.intel_rdt import ResourceClass
from orlop.libcontainer.journal import debug
from orlop.libcontainer.options import CreateOptions
from orlop.libcontainer.rootfs.plan import plan_rootfs
from orlop.libcontainer.state import hook_state
from orlop.oci.runtime import Hooks, Linux

if TYPE_CHECKING:
    from orlop.libcontainer.container import Container
    from orlop.libcontainer.netdevices import MovedDevice


def launch(container: "Container", options: CreateOptions) -> None:
    """Fork init into its namespaces and attend to it until it waits for its start.

    Raises what keeps it from getting there; then there is no process.
    """
    plan = _plan(container, options)
    cgroup = container.manager()
    group = cgroup.fd()
    ours, theirs = sync.pair()

    def join_group() -> None:
        if group is None:
            cgroup.join()

    def child() -> None:
        run_init(plan, theirs, join_group)

    try:
        plan.listener = _listen(container.directory)
        _open(container, plan)
        pid, pidfd = namespaces.spawn(plan.namespaces, -1 if group is None else group, child)
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        _close(plan)
    debug(f"{container.id}: init is process {pid}")
    try:
        _attend(container, ours, pid, pidfd, plan, options)
    except BaseException:
        parent.reap(pid, pidfd)
        os.close(pidfd)
        container.init_pidfd = -1
        raise
    finally:
        ours.close()


def _plan(container: "Container", options: CreateOptions) -> InitPlan:
    """All that can be decided before anything is opened but the namespaces to join."""
    spec, bundle = container.record.spec, container.record.bundle
    linux, process = spec.linux, spec.process
    assert linux is not None and process is not None
    # Without groups of its own, what a mount of type cgroup shows is still a matter of the host's version.
    groups = container.record.cgroup_paths or ({"": ""} if cgroups.mode() == "v2" else {})
    network = next((entry for entry in linux.namespaces if entry.type == "network"), None)
    return InitPlan(
        program=prepare.prepare_program(process, options.stdio, options.preserve_fds, linux, is_exec=False),
        rootfs=plan_rootfs(spec, bundle, groups, no_pivot=options.no_pivot, label=prepare.mount_label_of(linux)),
        state=container.oci_state("creating", 0),
        keyring=container.record.keyring,
        loopback=network is not None and not network.path,
        net_devices=_read_devices(linux),
        hostname=spec.hostname,
        domainname=spec.domainname,
        sysctl=linux.sysctl,
        time_offsets=linux.time_offsets,
        personality=prepare.personality_of(linux.personality),
        hooks=spec.hooks or Hooks(),
        namespaces=namespaces.plan_namespaces(linux.namespaces),
    )


def _listen(directory: str) -> _socket.socket:
    """The socket that init accepts its starter on."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # A socket's path is limited to 107 bytes; the directory's is not.
        sock.bind(f"/proc/self/fd/{fd}/{START_SOCKET}")
    finally:
        os.close(fd)
    sock.listen(4)
    return sock


def _open(container: "Container", plan: InitPlan) -> None:
    """What the child inherits as descriptors."""
    linux = container.record.spec.linux
    assert linux is not None
    in_user_namespace = plan.namespaces.new_user or plan.namespaces.user >= 0
    prepare.open_sources(plan.rootfs.mounts, linux, all_binds=in_user_namespace)
    prepare.open_program(plan.program, linux)


def _close(plan: InitPlan) -> None:
    if plan.listener is not None:
        plan.listener.close()
    prepare.close_sources(plan.rootfs.mounts)
    prepare.close_program(plan.program)
    plan.namespaces.close()


def _attend(
    container: "Container", channel: sync.Channel, pid: int, pidfd: int, plan: InitPlan, options: CreateOptions
) -> None:
    """Do the parent's part until init waits for its start, then write down that it does."""
    spec, record = container.record.spec, container.record
    assert spec.linux is not None and spec.process is not None
    if plan.namespaces.new_user:
        map_ids = rootless.map_ids if rootless.unprivileged() else parent.write_id_maps
        map_ids(pid, spec.linux.uid_mappings, spec.linux.gid_mappings)
    _move_devices(plan, spec.linux, pid)
    if record.resctrl:
        assert spec.linux.intel_rdt is not None
        ResourceClass(spec.linux.intel_rdt, record.id, record.resctrl).add(pid)
    parent.set_oom_score(pid, spec.process.oom_score_adj)
    channel.go()

    def hooks() -> None:
        run_creation_hooks(container, pid)

    conversation = parent.converse(
        channel,
        pid,
        spec.process,
        run_hooks=hooks,
        late_rlimits=not plan.program.set_rlimits,
        hand_on_seccomp=lambda fd: container.hand_on_seccomp(pid, fd),
    )
    container.console = sync.at_once(conversation)
    if container.console is not None and options.console_socket is not None:
        parent.send_descriptor(options.console_socket, b"/dev/ptmx", container.console)
        os.close(container.console)
        container.console = None
    if options.pidfd_socket is not None:
        parent.send_descriptor(options.pidfd_socket, b"standard", pidfd)
    record.init_pid = pid
    record.init_start, _ = process_start(pid)
    container.init_pidfd = pidfd
    container.keep()
    if options.pid_file:
        parent.write_pid_file(options.pid_file, pid)


def run_creation_hooks(container: "Container", pid: int) -> None:
    """The hooks that run in the runtime's namespaces while the container is made."""
    hooks = container.record.spec.hooks
    if hooks is None:
        return
    debug(f"{container.id}: {len(hooks.prestart)} prestart and {len(hooks.create_runtime)} createRuntime hooks")
    # The older kind belongs to the start (runtime-spec before 1.0.2), and expects that state.
    run_hooks("prestart", hooks.prestart, hook_state(container.oci_state("created", pid)))
    run_hooks("createRuntime", hooks.create_runtime, hook_state(container.oci_state("creating", pid)))


def _read_devices(linux: Linux) -> "list[MovedDevice]":
    if not linux.net_devices:
        return []
    from orlop.libcontainer import netdevices

    return netdevices.read_devices(linux.net_devices)


def _move_devices(plan: InitPlan, linux: Linux, pid: int) -> None:
    """Give the container its network devices, before it goes on to set them up."""
    if not plan.net_devices:
        return
    from orlop.libcontainer import netdevices

    path = next(entry.path for entry in linux.namespaces if entry.type == "network")
    namespace = netdevices.network_namespace_of(pid, path)
    try:
        for device in plan.net_devices:
            netdevices.move_device(device, namespace)
    finally:
        os.close(namespace)
