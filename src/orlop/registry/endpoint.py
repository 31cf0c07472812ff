# SPDX-License-Identifier: Apache-2.0
"""`Endpoint`: one host that serves repositories, and how it is spoken to."""

from typing import NamedTuple

PULL, RESOLVE, PUSH = "pull", "resolve", "push"
CONNECT_TIMEOUT = 30.0  # seconds
CAPABILITIES = frozenset({PULL, RESOLVE, PUSH})


class Certificates(NamedTuple):
    """Files in PEM: authorities besides the system's, and pairs of a client's certificate and key.

    The key's path is empty where the certificate's file holds it too.
    """

    authorities: tuple[str, ...] = ()
    clients: tuple[tuple[str, str], ...] = ()


class Endpoint(NamedTuple):
    """A host (with port) that serves repositories, the schemes to try in their order, and what it may be asked.

    `insecure`: certificates are not verified (unless authorities are given), and it may redirect to plain HTTP.
    `mirror`: not the registry itself: it gets no credentials of the user. `prefix` is where the API lies,
    `headers` what every request to it carries besides. `namespace`: the registry that is meant, told to a host
    that stands for several. `certificates`: None for those of `certs.d`.
    """

    host: str
    schemes: tuple[str, ...] = ("https",)
    insecure: bool = False
    mirror: bool = False
    prefix: str = "/v2"
    capabilities: frozenset[str] = CAPABILITIES
    headers: tuple[tuple[str, str], ...] = ()
    certificates: Certificates | None = None
    namespace: str = ""
    connect_timeout: float = CONNECT_TIMEOUT
