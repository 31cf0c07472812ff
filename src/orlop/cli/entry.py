# SPDX-License-Identifier: Apache-2.0
"""What `orlop` starts with, and what of it can be done once for all starts (orlop.unix.unexec)."""

from orlop.cli.main import main

__all__ = ["main", "prepare"]

# They take OpenSSL (by way of a registry's client and of digests), which may not be captured.
_LATER = ("orlop.cli.manifest_registry", "orlop.cli.manifest_store", "orlop.cli.commands.manifests")


def prepare() -> None:
    """Import what most commands need."""
    import importlib
    import pkgutil

    import orlop.cli

    for module in pkgutil.walk_packages(orlop.cli.__path__, "orlop.cli."):
        if module.name not in _LATER:
            importlib.import_module(module.name)
