# SPDX-License-Identifier: Apache-2.0
"""The helpers of the in-process driver: forked processes that do one piece of work, answer, and end."""

import gc
import json
import os
import signal as signals
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from orlop import errdefs
from orlop.errdefs import InternalError, OrlopError
from orlop.shim import log
from orlop.unix.process import close_range

if TYPE_CHECKING:
    from orlop.libcontainer import Container, CreateOptions
    from orlop.oci.runtime import Spec
    from orlop.shim.loop import Loop

_LONGEST = 1 << 17

Answer = tuple[dict[str, Any], int | None]
"""What a helper sends back: JSON, and perhaps a descriptor."""


class Creation(NamedTuple):
    """What a container is to be made of, besides its bundle."""

    root: str
    id: str
    bundle: str
    terminal: bool
    no_pivot: bool
    no_new_keyring: bool
    systemd_cgroup: bool


class Facts(NamedTuple):
    """What the shim keeps of a container that a helper has made."""

    pid: int
    executable: str
    cgroup_paths: dict[str, str]
    poststart: bool  # there are hooks to run at the start
    plain_end: bool  # nothing but directories is to be removed at the end


def fork_helper(work: Callable[[socket.socket], Answer], keep: tuple[int, ...] = ()) -> tuple[int, socket.socket]:
    """Run `work` in a helper, which has the descriptors `keep`: its pid, and the socket that it answers on.

    `work` gets the helper's end of that.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        _help(theirs, work, keep)
    theirs.close()
    return pid, ours


async def hear(loop: "Loop", channel: socket.socket) -> Answer:
    """Wait for a helper's answer and close the socket. Raises the OrlopError that the work has raised.

    Not for the helper's exit, which takes as long again: it has nothing more to do, and the reaper collects it.
    """
    with channel:
        await loop.readable(channel.fileno())
        packet, fds, _, _ = socket.recv_fds(channel, _LONGEST, 1, socket.MSG_CMSG_CLOEXEC)
    if not packet:
        raise InternalError("the runtime's helper died")
    answer = json.loads(packet)
    if "error" in answer:
        raise getattr(errdefs, answer["kind"], InternalError)(answer["error"])
    return answer, fds[0] if fds else None


class EarlyHelper:
    """A helper that is there before its work: it is born with the shim, and thinks the creation through.

    Containerd has written the bundle when it starts a shim, but takes a moment until it asks for the container.
    """

    def __init__(self, bundle: str, pid: int, channel: socket.socket) -> None:
        self.bundle = bundle
        self._pid = pid
        self._channel: socket.socket | None = channel

    def hand_over(self, creation: Creation, stdio: tuple[int, ...]) -> socket.socket | None:
        """Let it make the container; its answer comes from the socket. None when it is of no use."""
        channel, self._channel = self._channel, None
        if channel is None:
            return None
        try:
            if creation.bundle != self.bundle:
                raise ValueError(creation.bundle)
            socket.send_fds(channel, [json.dumps(creation).encode()], stdio)
        except (OSError, ValueError):
            channel.close()  # it has been killed, or was told too much: another helper will do
            return None
        return channel

    def close(self) -> None:
        """There is nothing to be made: end it, in the middle of its thoughts if need be; it has no effects yet."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            try:
                if os.waitpid(self._pid, os.WNOHANG)[0] == 0:  # it is there, and the pid its own
                    os.kill(self._pid, signals.SIGKILL)
                    os.waitpid(self._pid, 0)
            except ChildProcessError:
                return  # the reaper has collected it


def early_helper(bundle: str) -> EarlyHelper | None:
    """Fork one for the container of a bundle; None when there cannot be one: it is for speed only."""
    from orlop.libcontainer.journal import set_warning_sink

    set_warning_sink(log.warning)
    try:
        return EarlyHelper(bundle, *fork_helper(lambda channel: _create_when_asked(channel, bundle)))
    except OSError:
        return None


def _create_when_asked(channel: socket.socket, bundle: str) -> Answer:
    from orlop.libcontainer.foresight import foresee
    from orlop.oci.runtime import decode_spec

    raw, spec = b"", None
    try:
        raw = _read_config(bundle)
        spec = decode_spec(raw)
        foresee(spec, bundle)
    except (OSError, OrlopError):
        spec = None  # there will be an error, or another config.json, when it counts
    packet, fds, _, _ = socket.recv_fds(channel, _LONGEST, 3, socket.MSG_CMSG_CLOEXEC)
    if not packet:
        os._exit(0)
    creation = Creation(*json.loads(packet))
    if spec is None or _read_config(bundle) != raw:
        spec = None
    return create(creation, tuple(fds), spec)


def _read_config(bundle: str) -> bytes:
    with open(f"{bundle}/config.json", "rb", buffering=0) as file:
        return file.read()


def create(
    creation: Creation,
    stdio: tuple[int, ...],
    spec: "Spec | None" = None,
    images: tuple[str, str] | None = None,
) -> Answer:
    """Container.create, of `spec` if it has been read already; with `images`, their directory and that of CRIU's
    logs, Container.restore."""
    from orlop.libcontainer import Container, CreateOptions, Stdio
    from orlop.oci.runtime import decode_spec

    if spec is None:
        spec = decode_spec(_read_config(creation.bundle))
    if spec.process is not None and spec.process.terminal != creation.terminal:
        raise InternalError("terminal: the task and the process in config.json differ")
    options = CreateOptions(
        stdio=None if creation.terminal else Stdio(*stdio),
        pid_file=f"{creation.bundle}/init.pid",
        no_pivot=creation.no_pivot,
        no_new_keyring=creation.no_new_keyring,
        systemd_cgroup=creation.systemd_cgroup,
    )
    if images is None:
        container = Container.create(creation.root, creation.id, creation.bundle, spec, options)
    else:
        container = _restore(creation, spec, options, images)
    facts = Facts(
        pid=container.init_pid,
        executable=spec.process.args[0] if spec.process is not None else "",
        cgroup_paths=container.record.cgroup_paths,
        poststart=spec.hooks is not None and bool(spec.hooks.poststart),
        plain_end=not creation.systemd_cgroup and not (spec.hooks is not None and spec.hooks.poststop),
    )
    return facts._asdict(), container.console


def _restore(creation: Creation, spec: "Spec", options: "CreateOptions", images: tuple[str, str]) -> "Container":
    from orlop.libcontainer import Container, RestoreOptions

    path, work_path = images
    os.makedirs(work_path, 0o700, exist_ok=True)
    wanted = RestoreOptions(image_path=path, work_path=work_path, shell_job=creation.terminal)
    return Container.restore(creation.root, creation.id, creation.bundle, spec, options, wanted)


def _help(channel: socket.socket, work: Callable[[socket.socket], Answer], keep: tuple[int, ...]) -> NoReturn:
    """Be the helper: never returns into the shim's code."""
    status = 1
    gc.disable()  # it ends too soon for that to matter
    try:
        # A helper that hangs must not keep the shim's connections open when the shim is gone.
        first = 3
        for kept in sorted({kept for kept in (*keep, channel.fileno()) if kept >= first}):
            if kept > first:
                close_range(first, kept - 1)
            first = kept + 1
        close_range(first)
        # A helper that outlives a killed shim finishes what it has begun; signals are for the shim.
        signals.pthread_sigmask(signals.SIG_BLOCK, (signals.SIGTERM, signals.SIGINT))
        try:
            answer, fd = work(channel)
        except OrlopError as error:
            answer, fd = {"error": str(error), "kind": type(error).__name__}, None
        except Exception as error:  # noqa: BLE001 - the edge of the process
            log.exception("runtime", error)
            answer, fd = {"error": f"{type(error).__name__}: {error}", "kind": "InternalError"}, None
        packet = json.dumps(answer).encode()
        if fd is None:
            channel.send(packet)
        else:
            socket.send_fds(channel, [packet], [fd])
        status = 0
    finally:
        os._exit(status)
