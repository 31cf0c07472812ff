# SPDX-License-Identifier: Apache-2.0
"""create; and run, which is create and start in one, staying with the container unless detached."""

import os
from typing import TYPE_CHECKING

from orlop.errdefs import NotFoundError, OrlopError
from orlop.libcontainer import Container
from orlop.runc.common import check_terminal, create_options, load_bundle
from orlop.runc.main import Call

if TYPE_CHECKING:
    from orlop.runc.foreground import Foreground


def create(call: Call) -> int:
    """Make a container that waits for `start`."""
    bundle, spec = load_bundle(call)
    terminal = spec.process is not None and spec.process.terminal
    check_terminal(terminal=terminal, detached=True, socket=call.flags.text("console-socket"))
    Container.create(call.root, call.arguments[0], bundle, spec, create_options(call))
    return 0


def run(call: Call) -> int:
    """Create and start; without --detach wait for the end, delete, and answer the exit code."""
    bundle, spec = load_bundle(call)
    detached = call.flags.flag("detach")
    terminal = spec.process is not None and spec.process.terminal
    check_terminal(terminal=terminal, detached=detached, socket=call.flags.text("console-socket"))
    options = create_options(call)
    foreground = None
    if not detached:
        from orlop.runc.foreground import Foreground

        foreground = Foreground(subreaper=not call.flags.flag("no-subreaper"))
    container = Container.create(call.root, call.arguments[0], bundle, spec, options)
    try:
        _start(container, stays=not detached)
    except OrlopError:
        container.delete(force=True)
        raise
    return 0 if foreground is None else attend(call, container, foreground)


def _start(container: Container, *, stays: bool) -> None:
    if not os.environ.get("NOTIFY_SOCKET"):
        container.start()
        return
    from orlop.runc import notify

    if not stays:
        notify.start_and_forward(container)
        return
    sock = notify.listen(container)
    container.start()
    if sock is not None:
        notify.forward_in_background(sock, container)


def attend(call: Call, container: Container, foreground: "Foreground") -> int:
    """Stay until the container ends, delete it unless it is to be kept, and answer its exit code."""

    def forward(number: int) -> None:
        try:
            container.signal(number)
        except NotFoundError:
            return  # it ended meanwhile, and that is on its way to us

    console, container.console = container.console, None
    status = foreground.wait(container.init_pid, console, forward)
    if not call.flags.flag("keep"):
        container.delete(force=True)
    return status
