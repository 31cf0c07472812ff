# SPDX-License-Identifier: Apache-2.0
"""create, start, kill, delete, state: the commands that a shim calls."""

import os
import sys

import msgspec

from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.libcontainer import Container
from orlop.libcontainer.journal import set_warning_sink
from orlop.libcontainer.state import State
from orlop.runc.common import check_terminal, create_options, load_bundle, signal_number
from orlop.runc.main import Call


class _StateText(msgspec.Struct, rename="camel"):
    """The state in the order that runc writes it."""

    oci_version: str
    id: str
    pid: int
    status: str
    bundle: str
    rootfs: str
    created: str
    owner: str = ""


class _AnnotatedStateText(_StateText, rename="camel"):
    annotations: dict[str, str] = {}


def create(call: Call) -> int:
    """Make a container that waits for `start`."""
    bundle, spec = load_bundle(call)
    terminal = spec.process is not None and spec.process.terminal
    check_terminal(terminal=terminal, detached=True, socket=call.flags.text("console-socket"))
    Container.create(call.root, call.arguments[0], bundle, spec, create_options(call))
    return 0


def start(call: Call) -> int:
    """Let a created container run."""
    set_warning_sink(call.log.warning)
    container = Container.load(call.root, call.arguments[0])
    if os.environ.get("NOTIFY_SOCKET"):
        from orlop.runc.notify import start_and_forward

        start_and_forward(container)
        return 0
    container.start()
    return 0


def kill(call: Call) -> int:
    """Send a signal."""
    number = signal_number(call.arguments[1] if len(call.arguments) > 1 else "SIGTERM")
    containers = _matching(call) if call.flags.flag("regex") else [Container.load(call.root, call.arguments[0])]
    for container in containers:
        container.signal(number, all=call.flags.flag("all"))
    return 0


def delete(call: Call) -> int:
    """Remove a container; with --force one that does not exist is no error."""
    set_warning_sink(call.log.warning)
    force = call.flags.flag("force")
    if call.flags.flag("regex"):
        for found in _matching(call):
            found.delete(force=force)
        return 0
    try:
        container = Container.load(call.root, call.arguments[0])
    except NotFoundError:
        if force:
            return 0
        raise
    container.delete(force=force)
    return 0


def _matching(call: Call) -> list[Container]:
    """The containers with an id that the regular expression is found in. Raises InvalidArgumentError."""
    import re

    try:
        pattern = re.compile(call.arguments[0])
    except re.error as error:
        raise InvalidArgumentError(f'"{call.arguments[0]}" is no regular expression: {error}') from None
    return [container for container in Container.list(call.root) if pattern.search(container.id)]


def state(call: Call) -> int:
    """Print the state as JSON."""
    found = Container.load(call.root, call.arguments[0]).state()
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(state_text(found)), indent=2).decode() + "\n")
    return 0


def state_text(state: State, owner: str = "") -> _StateText:
    """A state as runc's JSON has it."""
    fields = (
        state.oci_version,
        state.id,
        state.pid,
        state.status,
        state.bundle,
        state.rootfs,
        state.created,
        owner,
    )
    if state.annotations:
        return _AnnotatedStateText(*fields, state.annotations)
    return _StateText(*fields)
