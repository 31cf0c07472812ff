# SPDX-License-Identifier: Apache-2.0
"""The orlop-netd command."""

import contextlib
import fcntl
import getopt
import os
import resource
import socket
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import cast

_DEFAULT_SOCKET = "/run/orlop/netd.sock"
_USAGE = f"""\
usage: orlop-netd [--socket PATH] [--standby | --detach] [--log PATH]

Hold published ports of containers, and answer their DNS queries.

  --socket PATH  the socket to serve (default: {_DEFAULT_SOCKET})
  --standby      wait while another one serves the socket, and take over when it ends
  --detach       serve in the background; exit once it is ready
  --log PATH     file for messages of the background process
"""


def main() -> None:
    """Parse the command line and serve until SIGTERM or SIGINT; exit 0 also if another one serves the socket."""
    try:
        options, rest = getopt.getopt(sys.argv[1:], "h", ["help", "socket=", "standby", "detach", "log="])
        if rest:
            raise getopt.GetoptError(f"unexpected argument {rest[0]!r}")
    except getopt.GetoptError as error:
        sys.exit(f"orlop-netd: {error}\n\n{_USAGE}".rstrip())
    given = {name: os.path.abspath(value) if value else value for name, value in options}
    if "-h" in given or "--help" in given:
        sys.stdout.write(_USAGE)
    elif "--detach" in given:
        sys.exit(_detach(given.get("--socket", _DEFAULT_SOCKET), given.get("--log", "")))
    else:
        sys.exit(_run(given.get("--socket", _DEFAULT_SOCKET), None, standby="--standby" in given))


def _detach(path: str, log: str) -> int:
    """Leave a daemon behind that belongs to nobody, and report how its start went."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.setsid()
        if os.fork():
            os._exit(0)
        _redirect(log)
        sys.exit(_run(path, write))
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as report:
        message = report.read()
    if message == "ready":
        return 0
    print(f"orlop-netd: {message or 'ended before it was ready'}", file=sys.stderr)  # noqa: T201
    return 1


def _redirect(log: str) -> None:
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if log else null
    for fd, source in ((0, null), (1, target), (2, target)):
        os.dup2(source, fd)
    os.close(null)
    if log:
        os.close(target)


def _run(path: str, ready: int | None, *, standby: bool = False) -> int:
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if standby else fcntl.LOCK_NB))
    except BlockingIOError:
        _report(ready, "ready")  # the one that has the lock serves, or is about to
        return 0
    _name_holder(lock)
    try:
        listener = _listen(path)
    except OSError as error:
        _report(ready, f"cannot serve {path}: {error.strerror}")
        return 1
    # No TLS here: without the ssl module asyncio takes 3 MB less. This process lives as long as the containers.
    sys.modules.setdefault("ssl", cast(ModuleType, None))
    # Every proxied connection takes two descriptors.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    from orlop.netd.keeper import Channel, Keeper, Kept
    from orlop.netd.worker import work

    def serves() -> None:
        nonlocal ready
        _report(ready, "ready")
        ready = None
        _notify_systemd()

    def begin(channel: Channel, kept: Sequence[Kept]) -> None:
        if ready is not None:  # the keeper's to say
            os.close(ready)
        work(listener, channel, kept, lambda: _name_holder(lock))

    status = Keeper(begin, serves).run()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.close(lock)
    return status


def _name_holder(lock: int) -> None:
    """Write this process into the lock's file: it is the one to ask to end."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _listen(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    umask = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(umask)
    listener.setblocking(False)
    return listener


def _report(ready: int | None, message: str) -> None:
    if ready is not None:
        os.write(ready, message.encode())
        os.close(ready)
    elif message != "ready":
        print(f"orlop-netd: {message}", file=sys.stderr)  # noqa: T201


def _notify_systemd() -> None:
    """Tell a service manager that waits for it (sd_notify(3)) that requests are served."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", "\0" + path[1:] if path.startswith("@") else path)


if __name__ == "__main__":
    main()
