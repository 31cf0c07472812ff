# SPDX-License-Identifier: Apache-2.0
"""`orlop daemon install` and `uninstall`: our units in systemd, by a plan that can be shown or carried out."""

import contextlib
import grp
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

from orlop.activation.components import SOCKET_UNIT
from orlop.activation.sockets import API_GROUP
from orlop.errdefs import ConflictError, NotFoundError

DIRECTORY = "/etc/systemd/system"
UNITS = (SOCKET_UNIT, "orlop.service", "orlop-containerd.service", "orlop-netd.service")
"""In the order in which they are stopped."""
_TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "units")
_MARK = "# Made by `orlop daemon install`; `orlop daemon uninstall` removes it.\n"
# Containers with a restart policy need dockerd at boot, not at the first connection.
_ENABLED = (SOCKET_UNIT, "orlop.service")


class Write(NamedTuple):
    """A file and what it holds."""

    path: str
    text: str


class Remove(NamedTuple):
    """A file that goes."""

    path: str


class Run(NamedTuple):
    """A command to run."""

    argv: tuple[str, ...]


Step = Write | Remove | Run


def install_plan(command: Callable[[str], str], *, group: bool, directory: str = DIRECTORY) -> list[Step]:
    """The steps that put the units in place, enable them and hold the socket.

    `command` gives a command's absolute path, which systemd needs; `group` says whether this machine has the group
    that may use the API. Raises what `command` raises.
    """
    steps: list[Step] = [Write(f"{directory}/{name}", _fit(name, command, group)) for name in UNITS]
    return [
        *steps,
        Run(("systemctl", "daemon-reload")),
        Run(("systemctl", "enable", "--quiet", *_ENABLED)),
        Run(("systemctl", "start", SOCKET_UNIT)),
    ]


def uninstall_plan(directory: str = DIRECTORY) -> list[Step]:
    """The steps that stop the daemons, without their containers, and take the units away."""
    return [
        Run(("systemctl", "disable", "--quiet", *_ENABLED)),
        Run(("systemctl", "stop", *UNITS)),
        *(Remove(f"{directory}/{name}") for name in UNITS),
        # Else systemd would remember the failures of units that are no more; a pattern may match none.
        Run(("systemctl", "reset-failed", "orlop.*", "orlop-containerd.*", "orlop-netd.*")),
        Run(("systemctl", "daemon-reload")),
    ]


def show(steps: Iterable[Step]) -> str:
    """What a plan would do, as text."""
    return "".join(_shown(step) for step in steps)


def check(steps: Iterable[Step]) -> None:
    """Raises ConflictError for a unit that is not ours to replace or remove, NotFoundError for one to be removed
    that is not there.
    """
    for step in steps:
        if isinstance(step, Run):
            continue
        try:
            with open(step.path, encoding="utf-8") as file:
                ours = file.read(len(_MARK)) == _MARK
        except FileNotFoundError:
            if isinstance(step, Write):
                continue
            raise NotFoundError(f"{step.path}: no such unit: nothing is installed") from None
        if not ours:
            raise ConflictError(f"{step.path} was not made by `orlop daemon install`: remove it first")


def perform(steps: Iterable[Step], run: Callable[[list[str]], object]) -> None:
    """Carry a plan out, commands by `run`. Raises OSError, and what `run` raises; written files are taken back."""
    with contextlib.ExitStack() as undo:
        for step in steps:
            if isinstance(step, Write):
                if not os.path.exists(step.path):
                    undo.callback(os.unlink, step.path)
                _write(step)
            elif isinstance(step, Remove):
                os.unlink(step.path)
            else:
                run(list(step.argv))
        undo.pop_all()


def command_path(name: str) -> str:
    """The absolute path of one of our commands: beside this Python, or on the PATH. Raises NotFoundError."""
    beside = os.path.join(os.path.dirname(sys.executable), name)
    if os.access(beside, os.X_OK):
        return beside
    if (found := shutil.which(name)) is None:
        raise NotFoundError(f"{name}: no such command beside {sys.executable} or on the PATH")
    return os.path.abspath(found)


def has_group() -> bool:
    """Whether there is a group of those who may use the API."""
    try:
        grp.getgrnam(API_GROUP)
    except KeyError:
        return False
    return True


def _fit(name: str, command: Callable[[str], str], group: bool) -> str:
    with open(os.path.join(_TEMPLATES, name), encoding="utf-8") as file:
        return _MARK + "".join(_fit_line(line, command, group) for line in file)


def _fit_line(line: str, command: Callable[[str], str], group: bool) -> str:
    key, _, value = line.partition("=")
    if key == "ExecStart":
        program, *arguments = value.split()
        return f"ExecStart={' '.join((command(program), *arguments))}\n"
    if not group and key == "SocketGroup":
        return ""
    if not group and key == "SocketMode":
        return "SocketMode=0600\n"
    return line


def _shown(step: Step) -> str:
    match step:
        case Write(path, text):
            return f"write {path}:\n" + "".join(f"    {line}\n" for line in text.splitlines())
        case Remove(path):
            return f"remove {path}\n"
        case Run(argv):
            return f"run {' '.join(argv)}\n"


def _write(step: Write) -> None:
    temporary = f"{step.path}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(step.text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, step.path)
