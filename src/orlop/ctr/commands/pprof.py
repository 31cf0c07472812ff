# SPDX-License-Identifier: Apache-2.0
"""ctr pprof: the profiles that containerd serves at its debug socket."""

from __future__ import annotations

import http.client
import socket
import sys
from collections.abc import Callable
from functools import partial

from orlop.containerd.client import Client
from orlop.ctr.flags import Flag, Values, duration
from orlop.ctr.main import Command
from orlop.errdefs import InternalError, UnavailableError

FLAGS = (Flag("debug-socket d", str, "/run/containerd/debug.sock", "socket path for containerd's debug server"),)


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)


def fetch(path: str, page: str) -> None:
    """Write a page of the debug server at a socket to standard output."""
    connection = _Connection(path)
    try:
        connection.request("GET", f"/debug/pprof/{page}")
        answer = connection.getresponse()
        if answer.status != 200:
            raise InternalError(f"{page}: {answer.status} {answer.reason}: {answer.read().decode().strip()}")
        while data := answer.read(1 << 16):
            sys.stdout.buffer.write(data)
        sys.stdout.flush()
    except OSError as error:
        raise UnavailableError(f"dial unix {path}: {(error.strerror or str(error)).lower()}") from None
    finally:
        connection.close()


SocketOf = Callable[[Client, Values], str]
"""Where the debug server of what is asked about listens."""


async def _fetch(page: str, socket_of: SocketOf, client: Client, values: Values) -> None:
    fetch(socket_of(client, values), f"{page}?debug={values['debug']}")


async def _timed(page: str, socket_of: SocketOf, client: Client, values: Values) -> None:
    fetch(socket_of(client, values), f"{page}?seconds={int(values['seconds'])}&debug={values['debug']}")


_DEBUG = Flag("debug", int, 0, "output format, value = 0: binary, value > 0: plaintext")


def profiles(socket_of: SocketOf) -> dict[str, Command]:
    """The commands that fetch profiles from a debug server."""
    stacks = (_DEBUG._replace(default=2),)
    profiled = (Flag("seconds s", duration, 30.0, "duration for collection"), _DEBUG)
    traced = (Flag("seconds s", duration, 5.0, "trace time"), _DEBUG)
    return {
        "block": Command(partial(_fetch, "block", socket_of), "goroutine blocking profile", "", (_DEBUG,)),
        "goroutines": Command(partial(_fetch, "goroutine", socket_of), "dump goroutine stack dump", "", stacks),
        "heap": Command(partial(_fetch, "heap", socket_of), "dump heap profile", "", (_DEBUG,)),
        "profile": Command(partial(_timed, "profile", socket_of), "CPU profile", "", profiled),
        "threadcreate": Command(
            partial(_fetch, "threadcreate", socket_of), "goroutine thread creating profile", "", (_DEBUG,)
        ),
        "trace": Command(partial(_timed, "trace", socket_of), "collect execution trace", "", traced),
    }


COMMANDS = profiles(lambda _client, values: str(values["debug-socket"]))
