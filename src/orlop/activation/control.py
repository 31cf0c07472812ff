# SPDX-License-Identifier: Apache-2.0
"""The control protocol of the supervisor: one JSON object a line, answered by one.

{"op": "start" | "stop" | "restart", "component": "all" | "socket" | <daemon>}   answered when it is done
{"op": "status"}

An answer is {"ok": true, "rows": [<row>, …]} or {"error": "<text>"}.

<row>: {"component", "state", "pid", "since" (seconds since the epoch), "listening"}
"""

import contextlib
import json
import socket
from typing import Any, TypedDict

from orlop.errdefs import InternalError, UnavailableError

ALL = "all"
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


def request(path: str, message: dict[str, Any], timeout: float = 60.0) -> dict[str, Any]:
    """Ask the supervisor. Raises UnavailableError if there is none, InternalError with its own words."""
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
