# SPDX-License-Identifier: Apache-2.0
"""The flags of every command that speaks to a registry, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop.ctr.flags import Flag

if TYPE_CHECKING:
    from orlop.ctr.flags import Values
    from orlop.oci.distribution import AuthConfig
    from orlop.registry import RegistryConfig

REGISTRY_FLAGS = (
    Flag("skip-verify k", bool, help="skip SSL certificate validation"),
    Flag("plain-http", bool, help="allow connections using plain HTTP"),
    Flag("user u", help="user[:password] Registry user and password"),
    Flag("refresh", help="refresh token for authorization server"),
    Flag("hosts-dir", help="Custom hosts configuration directory"),
)


def registry_config(values: Values, domain: str) -> RegistryConfig:
    """How to reach the registry at `domain`."""
    from orlop.registry import HOSTS_DIRS, RegistryConfig

    insecure = [domain] if values["plain-http"] or values["skip-verify"] else []
    return RegistryConfig(
        insecure=insecure, hosts_dirs=[values["hosts-dir"]] if values["hosts-dir"] else HOSTS_DIRS
    )


def registry_auth(values: Values, domain: str) -> AuthConfig | None:
    """Who asks: by the flags, else by config.json; None for nobody in particular.

    Asks for a password where only the user is given.
    """
    from orlop.oci.distribution import AuthConfig

    if values["refresh"]:
        return AuthConfig(identitytoken=values["refresh"], serveraddress=domain)
    if not values["user"]:
        from orlop.codec import convert
        from orlop.engine import credentials

        known = credentials.lookup(credentials.registry_of(f"{domain}/"))
        return convert(known, AuthConfig) if known else None
    user, _, password = values["user"].partition(":")
    if not password:
        import getpass

        password = getpass.getpass("Password: ")
    return AuthConfig(username=user, password=password, serveraddress=domain)
