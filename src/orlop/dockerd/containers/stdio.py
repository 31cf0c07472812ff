# SPDX-License-Identifier: Apache-2.0
"""Where the standard streams of a process on our shim go: a pure function of its configuration."""

from typing import NamedTuple
from urllib.parse import quote, urlencode

from orlop.dockerd.config import parse_size
from orlop.dockerd.containers.model import ContainerRecord, ExecRecord
from orlop.engine.types import LogConfig
from orlop.errdefs import InvalidArgumentError

READABLE_DRIVERS = ("json-file",)
DRIVERS = ("json-file", "none")

_JSON_FILE_OPTIONS = frozenset(
    {"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag"}
)


class Stdio(NamedTuple):
    """What CreateTask and Exec are given."""

    stdin: str
    stdout: str
    stderr: str
    terminal: bool


def check_log_config(config: LogConfig) -> None:
    """Raise InvalidArgumentError for a log driver or an option of it that is not there."""
    if config.type not in DRIVERS:
        raise InvalidArgumentError(
            f"logger: no log driver named '{config.type}' is registered (there are: {', '.join(DRIVERS)})"
        )
    if config.type == "json-file":
        for key in config.config:
            if key not in _JSON_FILE_OPTIONS:
                raise InvalidArgumentError(f"unknown log opt '{key}' for json-file log driver")
        size, files = rotation(config)
        if files > 1 and size <= 0 and "max-file" in config.config:
            raise InvalidArgumentError("max-file cannot be more than 1 when max-size is not set")


def container_stdio(record: ContainerRecord, socket: str) -> Stdio:
    """The streams of a container's init process; `socket` is where its attach socket shall be."""
    address = f"attach://{quote(socket)}"
    if record.host_config.log_config.type == "json-file":
        size, files = rotation(record.host_config.log_config)
        query: dict[str, str | int] = {"max-file": files} if size > 0 else {}
        if size > 0:
            query["max-size"] = size
        stdout = f"json-file://{quote(record.log_path)}?{urlencode({**query, 'attach': socket})}"
    else:
        stdout = address
    stdin = ""
    if record.config.open_stdin:
        stdin = address + ("?once=1" if closes_stdin(record) else "")
    terminal = record.config.tty
    return Stdio(stdin, stdout, "" if terminal else stdout, terminal)


def closes_stdin(record: ContainerRecord) -> bool:
    """Whether the end of the first client's input ends the process's; never at a terminal, which people leave."""
    return record.config.stdin_once and not record.config.tty


def exec_stdio(record: ExecRecord, socket: str) -> Stdio:
    """The streams of an extra process, all by its attach socket; nothing at all where nobody will attach."""
    address = f"attach://{quote(socket)}"
    once = "" if record.tty else "?once=1"
    stdin = f"{address}{once}" if record.open_stdin else ""
    return Stdio(stdin, address, "" if record.tty else address, record.tty)


def rotation(config: LogConfig) -> tuple[int, int]:
    """Largest size of a log file in bytes (-1: no limit) and how many are kept. Raises InvalidArgumentError."""
    text = config.config.get("max-size", "-1")
    size = -1 if text == "-1" else parse_size(text, "max-size")
    try:
        files = int(config.config.get("max-file", "1"))
    except ValueError:
        files = 0
    if files < 1:
        raise InvalidArgumentError(f"invalid max-file: {config.config['max-file']!r} is no number above 0")
    return size, files
