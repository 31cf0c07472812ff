# SPDX-License-Identifier: Apache-2.0
"""The kinds of networks there are, by the name of their driver.

A driver that is seldom used is imported when the first network of its kind is made or found.
"""

from functools import cache
from importlib import import_module

from orlop.dockerd.network.drivers.base import Driver
from orlop.dockerd.network.types import Network

_BUILT_IN = {
    "bridge": "BridgeDriver",
    "host": "HostDriver",
    "null": "NullDriver",
}
"""Driver and its class; the module in this package bears the driver's name."""


@cache
def get(name: str) -> Driver:
    """The driver of that name. Raises KeyError."""
    module = import_module(f"{__name__}.{name}") if name in _BUILT_IN else None
    driver: Driver = getattr(module, _BUILT_IN[name])()
    return driver


def of(network: Network) -> Driver:
    """The driver of a network that there is."""
    return get(network.driver)


def exists(name: str) -> bool:
    """Whether there is a driver of that name."""
    return name in _BUILT_IN


__all__ = ["Driver", "exists", "get", "of"]
