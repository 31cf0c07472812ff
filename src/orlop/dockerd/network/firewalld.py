# SPDX-License-Identifier: Apache-2.0
"""firewalld, asked over D-Bus: bridges are in a zone of it that lets everything in, as Docker's are.

Zone and policy are Docker's own, by name too: both engines share them. What passes them our rules judge.
Source: firewalld.dbus(5).
"""

import logging
from collections.abc import Iterable
from typing import Any

from orlop.dbus import Connection, DBusError

_log = logging.getLogger(__name__)

ZONE = "docker"
POLICY = "docker-forwarding"

_NAME = "org.fedoraproject.FirewallD1"
_PATH = "/org/fedoraproject/FirewallD1"
_CONFIG = f"{_PATH}/config"
_SECONDS = 20.0
"""A reload of many rules takes seconds, and meanwhile nothing is answered."""
_ZONE_SETTINGS = [("target", ("s", "ACCEPT")), ("description", ("s", "bridges of container networks"))]
_POLICY_SETTINGS = [
    ("target", ("s", "ACCEPT")),
    ("description", ("s", "into bridges of container networks, whose own rules judge")),
    ("ingress_zones", ("as", ["ANY"])),
    ("egress_zones", ("as", [ZONE])),
]


def admit(bridges: Iterable[str]) -> None:
    """Put bridges into our zone, which is made where it is missing; one that has a zone already stays there.

    Blocks. Raises DBusError, UnavailableError.
    """
    connection = Connection(_SECONDS, peer="firewalld")
    try:
        _furnish(connection)
        (present,) = _zone(connection, "getInterfaces", ZONE)
        for bridge in bridges:
            if bridge not in present:
                _enter(connection, bridge)
    finally:
        connection.close()


def dismiss(bridge: str) -> None:
    """Take a bridge out of our zone, if it is there. Blocks. Raises DBusError, UnavailableError."""
    connection = Connection(_SECONDS, peer="firewalld")
    try:
        (present,) = _zone(connection, "getInterfaces", ZONE)
        if bridge in present:
            _zone(connection, "removeInterface", ZONE, bridge)
    finally:
        connection.close()


def _furnish(connection: Connection) -> None:
    """Make zone and policy. They are kept on disk, for only those count after a reload, which they need."""
    zones = _zone(connection, "getZones")[0]
    policies = connection.call(_NAME, _PATH, f"{_NAME}.policy", "getPolicies")[0]
    missing = (ZONE not in zones, POLICY not in policies)
    if missing[0]:
        _add(connection, "addZone2", ZONE, _ZONE_SETTINGS)
    if missing[1]:
        _add(connection, "addPolicy", POLICY, _POLICY_SETTINGS)
    if any(missing):
        _log.info("firewalld: reloading, for zone %s and policy %s", ZONE, POLICY)
        connection.call(_NAME, _PATH, _NAME, "reload")


def _add(connection: Connection, method: str, name: str, settings: list[tuple[str, tuple[str, Any]]]) -> None:
    try:
        connection.call(_NAME, _CONFIG, f"{_NAME}.config", method, "sa{sv}", name, settings)
    except DBusError as error:
        if not str(error).startswith("NAME_CONFLICT"):  # on disk, but not loaded yet
            raise


def _enter(connection: Connection, bridge: str) -> None:
    try:
        _zone(connection, "addInterface", ZONE, bridge)
    except DBusError as error:
        if not str(error).startswith("ZONE_CONFLICT"):
            raise
        _log.info("firewalld: %s stays in the zone that the administrator chose: %s", bridge, error)


def _zone(connection: Connection, method: str, *arguments: str) -> tuple[Any, ...]:
    return connection.call(_NAME, _PATH, f"{_NAME}.zone", method, "s" * len(arguments), *arguments)
