# SPDX-License-Identifier: Apache-2.0
"""The control protocol of the supervisor: one JSON object a line, answered by one.

{"op": "start" | "stop" | "restart", "component": "all" | "socket" | <daemon>}   answered when it is done
{"op": "status"}

An answer is {"ok": true, "rows": [<row>, …]} or {"error": "<text>"}.

<row>: {"component", "state", "pid", "since" (seconds since the epoch), "listening"}
"""

import contextlib
import json
import os
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any, TypedDict

from orlop.errdefs import InternalError, UnavailableError

ALL = "all"
ANSWER_SECONDS = 120.0
_END_SECONDS = 10.0
_UCRED = struct.Struct("=iII")
OPERATIONS = ("start", "stop", "restart", "status")


class Row(TypedDict):
    """A component's line in the status; `pid` 0 and `since` 0 where there is none."""

    component: str
    state: str
    pid: int
    since: float
    listening: str


def encode(message: dict[str, Any]) -> bytes:
    """A message as a line."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """A line as a message. Raises ValueError."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


def serves(path: str) -> bool:
    """Whether a supervisor answers at `path`."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        try:
            client.connect(path)
        except (FileNotFoundError, ConnectionError):
            return False
    return True


@contextlib.contextmanager
def ending(path: str) -> Iterator[None]:
    """Wait, at the end of the block, until the supervisor's process, which the block told to end, is gone."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(path)
        raw = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pidfd = os.pidfd_open(_UCRED.unpack(raw)[0])
    try:
        yield
        select.select([pidfd], [], [], _END_SECONDS)
    finally:
        os.close(pidfd)


def request(path: str, message: dict[str, Any], timeout: float | None = ANSWER_SECONDS) -> dict[str, Any]:
    """Ask the supervisor. Raises UnavailableError if there is none, InternalError with its own words.

    `timeout` in seconds; None waits for what the supervisor does, which has deadlines of its own.
    """
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(timeout)
        try:
            client.connect(path)
            client.sendall(encode(message))
            with client.makefile("rb") as answers:
                line = answers.readline()
        except (FileNotFoundError, ConnectionError):
            raise UnavailableError("the daemons are not running (start them with: orlop daemon start)") from None
        except TimeoutError:
            raise UnavailableError(f"the supervisor at {path} does not answer within {timeout:.0f} s") from None
    if not line:
        raise UnavailableError("the supervisor ended before it answered")
    answer = decode(line)
    if "error" in answer:
        raise InternalError(answer["error"])
    return answer
