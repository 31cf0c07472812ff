# SPDX-License-Identifier: Apache-2.0
"""The flags of every command that speaks to a registry, and what they mean."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from orlop.ctr.flags import Flag
from orlop.errdefs import InvalidArgumentError

if TYPE_CHECKING:
    from orlop.ctr.flags import Values
    from orlop.oci.distribution import AuthConfig
    from orlop.registry import RegistryConfig
    from orlop.registry.endpoint import Certificates

REGISTRY_FLAGS = (
    Flag("skip-verify k", bool, help="skip SSL certificate validation"),
    Flag("plain-http", bool, help="allow connections using plain HTTP"),
    Flag("user u", help="user[:password] Registry user and password"),
    Flag("refresh", help="refresh token for authorization server"),
    Flag("hosts-dir", help="Custom hosts configuration directory"),
    Flag("tlscacert", help="path to TLS root CA"),
    Flag("tlscert", help="path to TLS client certificate"),
    Flag("tlskey", help="path to TLS client key"),
    Flag("http-dump", bool, help="dump all HTTP request/responses (without bodies) to standard error"),
    Flag("http-trace", bool, help="enable HTTP tracing for registry interactions"),
)


def registry_config(values: Values) -> RegistryConfig:
    """How to reach the registry that a command names. Raises InvalidArgumentError for one of a pair of files."""
    from orlop.registry import HOSTS_DIRS, RegistryConfig

    return RegistryConfig(
        hosts_dirs=[values["hosts-dir"]] if values["hosts-dir"] else HOSTS_DIRS,
        scheme="http" if values["plain-http"] else "",
        skip_verify=values["skip-verify"],
        certificates=_certificates(values),
        dump=_to_stderr if values["http-dump"] else None,
        trace=_to_stderr if values["http-trace"] else None,
    )


def _certificates(values: Values) -> Certificates | None:
    from orlop.registry.endpoint import Certificates

    authority, certificate, key = (values[name] for name in ("tlscacert", "tlscert", "tlskey"))
    if bool(certificate) != bool(key):
        raise InvalidArgumentError("tlscert and tlskey: expected both or none of them")
    if not (authority or certificate):
        return None
    return Certificates((authority,) if authority else (), ((certificate, key),) if certificate else ())


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


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
