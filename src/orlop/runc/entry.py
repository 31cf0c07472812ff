# SPDX-License-Identifier: Apache-2.0
"""What `orlop-runc` starts with, and what of it can be done once for all starts (orlop.unix.unexec)."""

import gc

from orlop.runc.main import main

__all__ = ["main", "prepare"]


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
