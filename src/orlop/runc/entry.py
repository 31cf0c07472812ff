# SPDX-License-Identifier: Apache-2.0
"""What `orlop-runc` starts with: the byte code of its commands in two files, one for those that import little."""

import gc
import os
import sys

from orlop.bundle import Bundle

# The first of these words on the command line most likely is the command; a wrong guess costs half a millisecond.
_LIGHT, _FULL = "orlop-runc-light", "orlop-runc"
_BUNDLES = {
    **dict.fromkeys(("start", "state", "kill", "delete"), _LIGHT),
    **dict.fromkeys(("create", "run", "exec"), _FULL),
}


def main() -> None:
    """Run the command line in sys.argv, and end the process with its exit code."""
    name = next((_BUNDLES[word] for word in sys.argv[1:] if word in _BUNDLES), None)
    bundle = Bundle(name) if name else None
    if bundle is not None:
        gc.disable()  # these are over before it would pay; who stays in the foreground enables it again
    from orlop.runc.main import main as run

    status = run()
    # What a command that imports little has loaded in a seldom case is not to be read by all that follow.
    if bundle is not None and (name != _LIGHT or "msgspec" not in sys.modules):
        bundle.keep()
    # Nothing is left to do that taking the interpreter down would do, and that takes longer than most commands.
    os._exit(status)
