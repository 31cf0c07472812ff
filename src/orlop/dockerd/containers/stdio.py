# SPDX-License-Identifier: Apache-2.0
"""Where the standard streams of a process on our shim go: a pure function of its configuration."""

from typing import NamedTuple
from urllib.parse import quote, urlencode

from orlop.dockerd.containers.model import ContainerRecord, ExecRecord
from orlop.dockerd.logging.place import Place


class Stdio(NamedTuple):
    """What CreateTask and Exec are given."""

    stdin: str
    stdout: str
    stderr: str
    terminal: bool


def container_stdio(record: ContainerRecord, socket: str, log: Place | None) -> Stdio:
    """The streams of a container's init process; `socket` is where its attach socket shall be."""
    address = f"attach://{quote(socket)}"
    stdout = address
    if log is not None:
        size, files, compress = log.rotation
        query: dict[str, str | int] = {"max-size": size, "max-file": files} if size > 0 else {}
        if size > 0 and compress:
            query["compress"] = 1
        if log.attrs:
            query["attrs"] = log.attrs
        stdout = f"{log.scheme}://{quote(log.path)}?{urlencode({**query, 'attach': socket})}"
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
