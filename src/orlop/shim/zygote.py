# SPDX-License-Identifier: Apache-2.0
"""Forks ready-made shims: one warm process that has imported everything, asked over descriptor 3.

The protocol is seam 2 of docs/architecture.md. A shim is a plain child: it makes its own session, the zygote lets
the kernel reap it, and when the zygote ends it falls to init. The zygote ends when the other end closes.

Memory: what the zygote has touched is shared by all shims until they write to it. So everything is imported and
used once before the first fork, the garbage collector leaves these objects alone (gc.freeze), and malloc has one
arena.
"""

import _signal  # type: ignore[import-not-found]
import gc
import json
import os
import select
import socket
import struct
import sys
from typing import TYPE_CHECKING, NoReturn

from orlop.errdefs import InvalidArgumentError, OrlopError
from orlop.shim import seal
from orlop.shim.title import ROOM, set_title

if TYPE_CHECKING:
    from orlop.shim.bootstrap import Start
    from orlop.unix.template import Template

_MODULE = "orlop.shim.zygote"
_FD = 3
_MAX_REQUEST = 65536


_forked: dict[str, int] = {}
"""The shims of this zygote by their socket, for further containers of their groups."""


def main() -> NoReturn:
    """Run from a sealed copy of the interpreter, warm up, and fork until descriptor 3 closes."""
    if not seal.is_sealed():
        try:
            seal.execute(_MODULE, [ROOM], dict(os.environ) | seal.ENVIRONMENT)
        except OSError as error:
            sys.stderr.write(f"zygote: cannot run from a sealed copy: {error.strerror}\n")
            sys.exit(1)
    channel = socket.socket(fileno=_FD)
    channel.set_inheritable(False)
    template = _warm_up()
    set_title(["containerd-shim-orlop-v2", "zygote"])
    # signal.signal would go through enums, which shims would have to copy.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # a ^C at containerd's terminal is not for containers
    while True:
        packet, fds, _, _ = socket.recv_fds(channel, _MAX_REQUEST, 4, socket.MSG_CMSG_CLOEXEC)
        if not packet or _is_left(channel):
            os._exit(0)
        answer = _answer(channel, packet, fds, template)
        try:
            channel.send(json.dumps(answer).encode())
        except OSError:
            os._exit(0)


def _is_left(channel: socket.socket) -> bool:
    """Whether the other end has closed: a request that it has left behind would make a shim that nobody knows."""
    poller = select.poll()
    poller.register(channel, 0)
    return any(event & select.POLLHUP for _, event in poller.poll(0))


def _warm_up() -> "Template | None":
    from orlop.shim.unused import leave_out

    leave_out()
    from orlop.shim.warm import warm_up
    from orlop.unix.template import Template

    warm_up()
    Template.rehearse()
    gc.collect()
    gc.freeze()
    gc.disable()
    return Template.take()


def _answer(
    channel: socket.socket, packet: bytes, fds: list[int], template: "Template | None"
) -> dict[str, object]:
    try:
        address, pid = _fork(channel, packet, fds, template)
    except OrlopError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"start a shim: {error.strerror or error}"}
    finally:
        for fd in fds:
            os.close(fd)
    return {"address": address, "pid": pid}


def _fork(channel: socket.socket, packet: bytes, fds: list[int], template: "Template | None") -> tuple[str, int]:
    from orlop.shim import bootstrap

    start, bundle = parse(packet)
    path = bootstrap.socket_address(start, bootstrap.group_of(bundle, start.id))
    bound = bootstrap.bind(path)
    if bound is None:
        return f"unix://{path}", _forked.get(path) or _pid_behind(path)
    listener = socket.socket(fileno=bound)
    try:
        pid = os.fork()
    except OSError:
        os.unlink(path)
        raise
    if pid == 0:
        _become_shim(channel, listener, start, path, bundle, fds[0] if fds else -1, template)
    listener.close()
    _forked[path] = pid
    return f"unix://{path}", pid


def _become_shim(
    channel: socket.socket,
    listener: socket.socket,
    start: "Start",
    path: str,
    bundle: str,
    log_fd: int,
    template: "Template | None",
) -> NoReturn:
    from orlop.shim import log
    from orlop.shim.server import serve, settle_in

    try:
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        gc.enable()
        listener.listen(128)  # again: from now on SO_PEERCRED names this process
        channel.close()
        os.setsid()
        settle_in(bundle, log_fd)
        words = ["-namespace", start.namespace, "-id", start.id, "-address", start.address]
        set_title(["containerd-shim-orlop-v2", *words])
        serve(listener, start, path, template)
    except BaseException as error:  # noqa: BLE001 - never back into the zygote's loop
        log.exception("the shim ends", error)
        os._exit(1)


def parse(packet: bytes) -> "tuple[Start, str]":
    """The request in a packet. Raises InvalidArgumentError."""
    from orlop.shim.bootstrap import SOCKET_DIR, Start

    try:
        request = json.loads(packet)
    except ValueError:
        raise InvalidArgumentError("the request is no JSON") from None
    if not isinstance(request, dict):
        raise InvalidArgumentError("the request is no JSON object")
    for name in ("id", "namespace", "bundle", "address"):
        if not isinstance(request.get(name), str) or not request[name]:
            raise InvalidArgumentError(f"the request's {name} must be a string that is not empty")
    start = Start(
        namespace=request["namespace"],
        id=request["id"],
        address=request["address"],
        ttrpc_address=str(request.get("ttrpc_address") or f"{request['address']}.ttrpc"),
        socket_dir=str(request.get("socket_dir") or SOCKET_DIR),
        debug=bool(request.get("debug")),
        modern=True,
    )
    return start, request["bundle"]


def _pid_behind(path: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(path)
        pid, _, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


if __name__ == "__main__":
    main()
