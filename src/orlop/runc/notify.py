# SPDX-License-Identifier: Apache-2.0
"""sd_notify(3) for containers: the container gets a socket of its own, and its READY is told to the supervisor.

The directory `<root>/<id>/notify` is the container's /run/notify; whoever starts the container listens there.
"""

import _socket
import array
import os
import select

from orlop.errdefs import OrlopError
from orlop.libcontainer.errors import explain
from orlop.libcontainer.facts import NOTIFY_DIRECTORY
from orlop.libcontainer.handle import Handle
from orlop.libcontainer.journal import warn
from orlop.oci.runtime import Mount, Spec

_NAME = "notify.sock"
_INSIDE = "/run/notify"
_LONGEST = 4096
_BARRIER_MILLISECONDS = 30_000


def pass_socket(spec: Spec, root: str, container_id: str) -> None:
    """Show the container its socket."""
    source = f"{root}/{container_id}/{NOTIFY_DIRECTORY}"
    options = ["bind", "nosuid", "noexec", "nodev", "ro"]
    spec.mounts.append(Mount(destination=_INSIDE, source=source, options=options))
    if spec.process is not None:
        spec.process.env.append(f"NOTIFY_SOCKET={_INSIDE}/{_NAME}")


def listen(container: Handle) -> _socket.socket | None:
    """The container's socket, bound; None for a container that was created without."""
    try:
        directory = os.open(f"{container.directory}/{NOTIFY_DIRECTORY}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        # A socket's path is limited to 107 bytes; the directory's is not.
        path = f"/proc/self/fd/{directory}/{_NAME}"
        sock.bind(path)
        os.chmod(path, 0o777)  # whoever the container's user is
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(directory)
    return sock


def start_and_forward(container: Handle) -> None:
    """Start the container and stay until it is ready, or has ended."""
    sock = listen(container)
    try:
        container.start()
        if sock is not None:
            forward(sock, container.pidfd(), container.init_pid)
    finally:
        if sock is not None:
            sock.close()


def forward_in_background(sock: _socket.socket, container: Handle) -> None:
    """Leave a child that forwards; the supervisor goes on to watch this process, which stays."""
    watched = os.getpid()
    if os.fork() == 0:
        try:
            forward(sock, container.pidfd(), watched)
        finally:
            os._exit(0)
    sock.close()


def forward(sock: _socket.socket, pidfd: int, main_pid: int) -> None:
    """Wait for READY, and tell the supervisor of it and of the process that it is to watch; until init ends."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    poller.register(pidfd, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poller.poll()]
        if sock.fileno() not in ready:
            return
        message = sock.recv(_LONGEST)
        found = next((line for line in message.split(b"\n") if line.startswith(b"READY=")), None)
        if found is not None:
            try:
                _tell(found, main_pid)
            except (OSError, OrlopError) as error:
                warn(f"NOTIFY_SOCKET: {explain(error)}")
            return


def _tell(line: bytes, main_pid: int) -> None:
    """Say it to the supervisor, and wait until that has read it: afterwards this process may be gone."""
    supervisor = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    reader, writer = os.pipe()
    try:
        name = os.environ["NOTIFY_SOCKET"]
        supervisor.connect("\0" + name[1:] if name.startswith("@") else name)
        supervisor.send(line + b"\n")
        supervisor.send(b"MAINPID=%d\n" % main_pid)
        rights = array.array("i", [writer]).tobytes()
        supervisor.sendmsg([b"BARRIER=1"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
        os.close(writer)
        writer = -1
        poller = select.poll()
        poller.register(reader, select.POLLIN)
        if not poller.poll(_BARRIER_MILLISECONDS):
            warn("NOTIFY_SOCKET: the supervisor does not answer a barrier")
    finally:
        supervisor.close()
        os.close(reader)
        if writer >= 0:
            os.close(writer)
