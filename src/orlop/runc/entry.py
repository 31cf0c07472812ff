# SPDX-License-Identifier: Apache-2.0
"""What `orlop-runc` starts with, and what of it can be done once for all starts (orlop.unix.unexec)."""

import gc
import os

from orlop.runc.main import main as run


def main() -> None:
    """Run the command line in sys.argv, and end the process with its exit code."""
    # Nothing is left to do that taking the interpreter down would do, and that takes longer than most commands.
    os._exit(run())


def prepare() -> None:
    """Import what any command may need."""
    import importlib
    import pkgutil

    import orlop.cgroups
    import orlop.libcontainer
    import orlop.runc

    for package in (orlop.runc, orlop.libcontainer, orlop.cgroups):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    gc.disable()  # nearly all are over before it would pay; who stays in the foreground enables it again
