# SPDX-License-Identifier: Apache-2.0
"""The sockets that the daemon listens on: made by it, or handed down by systemd or `orlop daemon` (fd://)."""

import errno
import grp
import logging
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from orlop.errdefs import InvalidArgumentError, UnavailableError

log = logging.getLogger("orlop.dockerd.listeners")

_FIRST_FD = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_BACKLOG = 1024


def open_listeners(hosts: list[str], group: str, environment: Mapping[str, str]) -> list[socket.socket]:
    """A listening socket for each host. Raises InvalidArgumentError, UnavailableError; then none is open."""
    found: list[socket.socket] = []
    try:
        for host in hosts:
            found += _open(host, group, environment)
    except BaseException:
        for listening in found:
            listening.close()
        raise
    return found


def _open(host: str, group: str, environment: Mapping[str, str]) -> list[socket.socket]:
    scheme, _, rest = host.partition("://")
    if scheme == "unix":
        return [_open_unix(rest, group)]
    if scheme == "fd":
        return _inherited(rest, environment)
    raise InvalidArgumentError(
        f"hosts: {host}: TCP without TLS client verification is not served; use a unix socket or ssh"
    )


def _open_unix(path: str, group: str) -> socket.socket:
    if not path.startswith("/"):
        raise InvalidArgumentError(f"hosts: {path!r} is no absolute path")
    Path(path).parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    # Nobody may connect between bind and chmod.
    mask = os.umask(0o177)
    try:
        listening.bind(path)
    except OSError as error:
        listening.close()
        raise UnavailableError(f"cannot listen on unix://{path}: {error.strerror}") from None
    finally:
        os.umask(mask)
    _give_to_group(path, group)
    listening.listen(_BACKLOG)
    return listening


def _remove_stale(path: str) -> None:
    """Remove the socket of a daemon that is gone. Raises UnavailableError if one answers, or it is no socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UnavailableError(f"cannot listen on unix://{path}: the file exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                raise UnavailableError(f"cannot listen on unix://{path}: {error.strerror}") from None
        else:
            raise UnavailableError(f"cannot listen on unix://{path}: another daemon is listening")
    Path(path).unlink(missing_ok=True)


def _give_to_group(path: str, group: str) -> None:
    mode = 0o600
    if group:
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
            os.chown(path, -1, gid)
            mode = 0o660
        except KeyError:
            log.warning("unix://%s: there is no group %s: only root may connect", path, group)
    Path(path).chmod(mode)


def _inherited(wanted: str, environment: Mapping[str, str]) -> list[socket.socket]:
    """Sockets by sd_listen_fds(3): all of them, or the one whose number `fd://N` names."""
    if environment.get("LISTEN_PID") not in (None, "", str(os.getpid())):
        raise UnavailableError("hosts: fd://: LISTEN_PID names another process")
    count = environment.get("LISTEN_FDS", "0")
    fds = range(_FIRST_FD, _FIRST_FD + (int(count) if count.isdecimal() else 0))
    if not fds:
        raise UnavailableError("hosts: fd://: no sockets found via socket activation")
    if wanted and wanted != "*":
        if not wanted.isdecimal() or int(wanted) not in fds:
            raise InvalidArgumentError(f"hosts: fd://{wanted}: no such descriptor among {list(fds)}")
        chosen = [int(wanted)]
    else:
        chosen = list(fds)
    for fd in fds:
        if fd not in chosen:
            os.close(fd)
    sockets = []
    for fd in chosen:
        os.set_inheritable(fd, False)
        inherited = socket.socket(fileno=fd)
        inherited.setblocking(False)
        sockets.append(inherited)
    return sockets
