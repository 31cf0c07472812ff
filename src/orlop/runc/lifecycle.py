# SPDX-License-Identifier: Apache-2.0
"""start, kill, delete, state: what is asked of a container that exists, with few imports."""

import os
import signal
import sys

from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.libcontainer.handle import Handle
from orlop.libcontainer.journal import set_warning_sink
from orlop.runc.main import Call


def start(call: Call) -> int:
    """Let a created container run."""
    set_warning_sink(call.log.warning)
    container = _load(call)
    if os.environ.get("NOTIFY_SOCKET"):
        from orlop.runc.notify import start_and_forward

        start_and_forward(container)
        return 0
    container.start()
    return 0


def kill(call: Call) -> int:
    """Send a signal."""
    number = _signal_number(call.arguments[1] if len(call.arguments) > 1 else "SIGTERM")
    containers = _matching(call) if call.flags.flag("regex") else [_load(call)]
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
        container = _load(call)
    except NotFoundError:
        if force:
            return 0
        raise
    container.delete(force=force)
    return 0


def _load(call: Call) -> Handle:
    return Handle.load(call.root, call.arguments[0])


def _matching(call: Call) -> list[Handle]:
    """The containers with an id that the regular expression is found in. Raises InvalidArgumentError."""
    import re

    try:
        pattern = re.compile(call.arguments[0])
    except re.error as error:
        raise InvalidArgumentError(f'"{call.arguments[0]}" is no regular expression: {error}') from None
    return [container for container in Handle.list(call.root) if pattern.search(container.id)]


def _signal_number(name: str) -> int:
    """The number of a signal given as `9`, `KILL` or `SIGKILL`. Raises InvalidArgumentError."""
    if name.isascii() and name.isdigit() and 0 <= int(name) < signal.NSIG:
        return int(name)
    upper = name.upper()
    found = getattr(signal, upper if upper.startswith("SIG") else f"SIG{upper}", None)
    if upper.startswith("SIG_") or not isinstance(found, int):
        raise InvalidArgumentError(f'unknown signal "{name}"')
    return int(found)


def state(call: Call) -> int:
    """Print the state as JSON."""
    from orlop.runc import state_text

    text = state_text.fields(_load(call))
    sys.stdout.write(state_text.indented(text) + "\n")
    return 0
