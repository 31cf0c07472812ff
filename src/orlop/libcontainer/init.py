# SPDX-License-Identifier: Apache-2.0
"""The init process of a container, from the fork to the user's program. Runs in the child (see `sync`)."""

import _socket
import gc
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from orlop.errdefs import InvalidArgumentError, OrlopError
from orlop.libcontainer import namespaces
from orlop.libcontainer.errors import explain, pack
from orlop.libcontainer.hooks import run_hooks
from orlop.libcontainer.network import raise_loopback
from orlop.libcontainer.procfs import open_procfs, sysctl_path, write_proc
from orlop.libcontainer.program import (
    Program,
    become_user,
    execute,
    isolate,
    own_stdio,
    place_stdio,
)
from orlop.libcontainer.rootfs.apply import Rootfs
from orlop.libcontainer.rootfs.nodes import mount_console
from orlop.libcontainer.rootfs.plan import RootfsPlan
from orlop.libcontainer.rootfs.resolve import make_directories
from orlop.libcontainer.scheduling import apply_scheduling
from orlop.libcontainer.security_label import set_key_label, set_security_label
from orlop.libcontainer.state import State, hook_state
from orlop.libcontainer.sync import CONSOLE, ERROR, HOOKS, READY, WARNING, Channel
from orlop.oci.runtime import Hooks, TimeOffset
from orlop.unix import process as proc

if TYPE_CHECKING:
    from orlop.libcontainer.netdevices import MovedDevice

_OTHERS_MAY_SEARCH = 0x80000  # key permission: the user's own processes that are not in the session
_OTHERS_MAY_SEARCH_NS = 0x8


class InitPlan(msgspec.Struct):
    """Everything that init does, decided before the fork."""

    program: Program
    rootfs: RootfsPlan
    namespaces: namespaces.NamespacePlan
    state: State
    listener: _socket.socket | None = None  # where a starter connects
    keyring: str = ""
    loopback: bool = False
    net_devices: "list[MovedDevice]" = []
    hostname: str = ""
    domainname: str = ""
    sysctl: dict[str, str] = {}
    time_offsets: dict[str, TimeOffset] = {}
    personality: int | None = None
    hooks: Hooks = msgspec.field(default_factory=Hooks)


def run_init(plan: InitPlan, channel: Channel, prologue: Callable[[], None]) -> None:
    """The whole life of the child; ends in the user's program or in _exit.

    `prologue` runs first, while the descriptors of the caller are still there: it joins the control group.
    """
    try:
        prologue()
        executable = _set_up(plan, channel)
        channel.send(READY)
        channel.close()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        report(channel, error)
    assert plan.listener is not None
    starter = _wait_for_start(plan.listener)
    try:
        if plan.hooks.start_container:
            _run_start_hooks(plan)
        execute(channel, plan.program, executable, starter)
    except BaseException as error:  # noqa: BLE001 - the same for the starter
        try:
            os.write(starter, pack(error))
        finally:
            os._exit(1)


def report(channel: Channel, error: BaseException) -> None:
    """Tell the parent of an error, if there still is one, and end."""
    try:
        channel.send(ERROR, pack(error))
    finally:
        os._exit(1)


def _set_up(plan: InitPlan, channel: Channel) -> str:
    gc.disable()
    trees = [step.tree for step in plan.rootfs.mounts if step.tree >= 0]
    listener = plan.listener.fileno() if plan.listener is not None else -1
    isolate(channel, plan.program, [listener, *plan.namespaces.descriptors(), *trees])
    proc.reset_signals()
    os.setsid()
    channel.wait_go()
    proc.prctl(proc.PR_SET_DUMPABLE, 0)
    namespaces.enter(plan.namespaces, plan.time_offsets)
    if plan.keyring:
        label = plan.program.process.selinux_label
        in_user_namespace = plan.namespaces.new_user
        join_keyring(plan.keyring, channel, label, restrict=True, in_user_namespace=in_user_namespace)
    if plan.loopback:
        raise_loopback()
    if plan.net_devices:
        _configure_devices(plan.net_devices)
    os.umask(0)
    rootfs = Rootfs(plan.rootfs)
    _build_rootfs(plan, rootfs, channel)
    slave = _open_console(plan, rootfs, channel)
    _enter_rootfs(rootfs)
    if slave >= 0:
        from orlop.libcontainer.terminal import take_terminal

        take_terminal(slave)
        os.close(slave)
    else:
        place_stdio(plan.program.stdio)
    process = plan.program.process
    own_stdio(process.user.uid)
    rootfs.seal()
    os.umask(0o022)
    _name_host(plan)
    _set_sysctls(plan.sysctl)
    set_security_label(process)
    rootfs.protect()
    os.close(rootfs.fd)
    if process.no_new_privileges:
        proc.prctl(proc.PR_SET_NO_NEW_PRIVS, 1)
    apply_scheduling(plan.program.scheduling)
    if plan.personality is not None:
        proc.personality(plan.personality)
    return become_user(channel, plan.program)


def _build_rootfs(plan: InitPlan, rootfs: Rootfs, channel: Channel) -> None:
    try:
        rootfs.attach()
    except OSError as error:
        raise InvalidArgumentError(f"error preparing rootfs: {explain(error)}") from error
    rootfs.mount()
    rootfs.make_dev()
    if plan.hooks.prestart or plan.hooks.create_runtime:
        channel.send(HOOKS)
        channel.wait_go()
    if plan.hooks.create_container:
        plan.state.pid = os.getpid()
        run_hooks("createContainer", plan.hooks.create_container, hook_state(plan.state))
    try:
        os.close(make_directories(rootfs.fd, plan.program.process.cwd))
    except OSError as error:
        raise InvalidArgumentError(f"mkdir {plan.program.process.cwd}: {explain(error)}") from error


def _open_console(plan: InitPlan, rootfs: Rootfs, channel: Channel) -> int:
    process = plan.program.process
    if not process.terminal:
        return -1
    from orlop.libcontainer.terminal import open_terminal  # `prepare_program` has loaded it

    master, slave = open_terminal(rootfs.fd, process.console_size)
    mount_console(rootfs.fd, slave)
    channel.send(CONSOLE, fd=master)
    os.close(master)
    return slave


def _enter_rootfs(rootfs: Rootfs) -> None:
    try:
        rootfs.pivot()
    except OSError as error:
        raise InvalidArgumentError(f"error jailing process inside rootfs: {explain(error)}") from error


def _configure_devices(devices: "list[MovedDevice]") -> None:
    from orlop.libcontainer.netdevices import configure_device  # the parent has loaded it, to read them

    for device in devices:
        configure_device(device)


def _name_host(plan: InitPlan) -> None:
    if plan.hostname:
        proc.sethostname(plan.hostname)
    if plan.domainname:
        proc.setdomainname(plan.domainname)


def _set_sysctls(sysctl: dict[str, str]) -> None:
    if not sysctl:
        return
    procfs = open_procfs()
    try:
        for name, value in sysctl.items():
            try:
                write_proc(procfs, sysctl_path(name), value)
            except OSError as error:
                raise InvalidArgumentError(f'linux.sysctl: cannot set "{name}": {explain(error)}') from error
    finally:
        os.close(procfs)


def join_keyring(name: str, channel: Channel, label: str, *, restrict: bool, in_user_namespace: bool) -> None:
    """A session keyring for the container, so that it does not hold the caller's keys; `label` is SELinux's."""
    if label:
        set_key_label(label)
    try:
        key = proc.keyctl_join_session_keyring(name)
        if restrict:
            mask = int(proc.keyctl_describe(key).split(";")[3], 16)
            added = _OTHERS_MAY_SEARCH_NS if in_user_namespace else _OTHERS_MAY_SEARCH
            proc.keyctl_setperm(key, mask | added)
    except (OSError, OrlopError) as error:
        channel.send(WARNING, f"no session keyring: {explain(error)}".encode())
    if label:
        set_key_label("")


def _wait_for_start(listener: _socket.socket) -> int:
    """Wait until somebody connects and says a word; the connection, which the exec closes."""
    while True:
        fd, _ = listener._accept()  # type: ignore[attr-defined]
        if os.read(fd, 16):
            listener.close()
            return int(fd)
        os.close(fd)


def _run_start_hooks(plan: InitPlan) -> None:
    hooks = plan.hooks.start_container
    for hook in hooks:
        hook.env = hook.env or [f"{name}={value}" for name, value in plan.program.environment.items()]
    plan.state.pid = os.getpid()
    plan.state.status = "created"
    run_hooks("startContainer", hooks, hook_state(plan.state))
