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

from orlop.dockerd.api.server import Listener
from orlop.dockerd.api.tls import server_context, verifies
from orlop.dockerd.config import Config
from orlop.dockerd.config_check import DEFAULT_SOCKET, parse_host
from orlop.errdefs import InvalidArgumentError, UnavailableError

log = logging.getLogger("orlop.dockerd.listeners")

_FIRST_FD = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_BACKLOG = 1024
DEFAULT_HOST = f"unix://{DEFAULT_SOCKET}"
DEFAULT_TLS_HOST = "tcp://localhost:2376"
_DANGER = """
         Access to the remote API is equivalent to root access on the host. Refer
         to the 'Docker daemon attack surface' section in the documentation for
         more information: https://docs.docker.com/go/attack-surface/"""


def hosts_of(config: Config) -> list[tuple[str, str]]:
    """Scheme and address of each place to listen at. With TLS and no host named, that is Docker's TLS port."""
    default = DEFAULT_TLS_HOST if config.tls or config.tlsverify else DEFAULT_HOST
    hosts = [host for host in config.hosts if host.strip()] or [default]
    return [parse_host(host) for host in dict.fromkeys(hosts)]


def open_listeners(config: Config, environment: Mapping[str, str]) -> list[Listener]:
    """A listening socket for each host. Raises InvalidArgumentError, UnavailableError; then none is open."""
    tls = server_context(config, environment.get("DOCKER_CERT_PATH") or str(Path.home() / ".docker"))
    found: list[socket.socket] = []
    try:
        for scheme, address in hosts_of(config):
            if scheme == "unix":
                found.append(_open_unix(address, config.group, open_to_all=bool(config.socket_policy)))
            elif scheme == "fd":
                inherited = _inherited(address, environment)
                found += inherited
                for each in inherited:
                    if each.family != socket.AF_UNIX:
                        check_open_tcp(config, "{}:{}".format(*each.getsockname()))
            else:
                check_open_tcp(config, address)
                found += _open_tcp(address)
    except BaseException:
        for listening in found:
            listening.close()
        raise
    return [Listener(each, None if each.family == socket.AF_UNIX else tls) for each in found]


def check_open_tcp(config: Config, address: str) -> None:
    """Whoever reaches the port is root. Raises InvalidArgumentError unless that was said to be wanted."""
    if verifies(config):
        return
    if config.tls is None and config.tlsverify is None:
        raise InvalidArgumentError(
            f"hosts: tcp://{address}: without --tlsverify everybody who reaches this address is root here; "
            "use --tlsverify with certificates, a unix socket or ssh, or say --tls=false to serve it in the open"
        )
    log.warning(
        "tcp://%s: binding to IP address without --tlsverify is insecure and gives root access on this machine to "
        "everyone who has access to your network",
        address,
    )
    log.warning("tcp://%s: binding to an IP address, even on localhost, can also give access to scripts run in a "
                "browser. Be safe out there!", address)  # fmt: skip


def open_tcp_warnings(config: Config) -> list[str]:
    """What `docker info` says of addresses at which everybody is root, in Docker's words."""
    if verifies(config):
        return []
    encrypted = bool(config.tls or config.tlsverify)
    url, lack = ("https", "TLS client verification") if encrypted else ("http", "encryption")
    return [
        f"[DEPRECATION NOTICE]: API is accessible on {url}://{address} without {lack}.{_DANGER}"
        for scheme, address in hosts_of(config)
        if scheme == "tcp"
    ]


def _open_tcp(address: str) -> list[socket.socket]:
    host, _, port = address.rpartition(":")
    opened: list[socket.socket] = []
    try:
        for family, kind, protocol, _, where in socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            listening = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
            opened.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind(where)
            listening.listen(_BACKLOG)
    except OSError as error:
        for listening in opened:
            listening.close()
        raise UnavailableError(f"cannot listen on tcp://{address}: {error.strerror}") from None
    return opened


def _open_unix(path: str, group: str, *, open_to_all: bool) -> socket.socket:
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
    if open_to_all:  # the policy decides what each of them may do
        Path(path).chmod(0o666)
    else:
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
