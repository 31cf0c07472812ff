# SPDX-License-Identifier: Apache-2.0
"""create, start, kill, delete, state: the commands that a shim calls."""

import sys

import msgspec

from orlop.errdefs import NotFoundError
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
    Container.load(call.root, call.arguments[0]).start()
    return 0


def kill(call: Call) -> int:
    """Send a signal."""
    container = Container.load(call.root, call.arguments[0])
    name = call.arguments[1] if len(call.arguments) > 1 else "SIGTERM"
    container.signal(signal_number(name), all=call.flags.flag("all"))
    return 0


def delete(call: Call) -> int:
    """Remove a container; with --force one that does not exist is no error."""
    set_warning_sink(call.log.warning)
    force = call.flags.flag("force")
    try:
        container = Container.load(call.root, call.arguments[0])
    except NotFoundError:
        if force:
            return 0
        raise
    container.delete(force=force)
    return 0


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
