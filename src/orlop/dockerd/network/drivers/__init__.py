# SPDX-License-Identifier: Apache-2.0
"""The kinds of networks there are, by the name of their driver.

A driver that is seldom used is imported when the first network of its kind is made or found.
"""

from collections.abc import Iterable
from functools import cache
from importlib import import_module

from orlop.dockerd.network.drivers.base import Driver
from orlop.dockerd.network.types import Network

_BUILT_IN = {
    "bridge": "BridgeDriver",
    "host": "HostDriver",
    "null": "NullDriver",
    "macvlan": "MacvlanDriver",
    "ipvlan": "IpvlanDriver",
    "overlay": "OverlayDriver",
}
"""Driver and its class; the module in this package bears the driver's name."""


@cache
def get(name: str) -> Driver:
    """The driver of that name: a plugin, if it is none of ours."""
    if name not in _BUILT_IN:
        remote: Driver = import_module(f"{__name__}.remote").RemoteDriver(name)
        return remote
    driver: Driver = getattr(import_module(f"{__name__}.{name}"), _BUILT_IN[name])()
    return driver


def of(network: Network) -> Driver:
    """The driver of a network that there is."""
    return get(network.driver)


def names(plugins: Iterable[str] = ()) -> list[str]:
    """All drivers in the order of their names: ours and `plugins`."""
    return sorted({*_BUILT_IN, *plugins})


def is_built_in(name: str) -> bool:
    """Whether a driver of that name is no plugin."""
    return name in _BUILT_IN


__all__ = ["Driver", "get", "is_built_in", "names", "of"]
