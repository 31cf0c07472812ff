# SPDX-License-Identifier: Apache-2.0
"""Where a registry is found and how it is trusted: mirrors, insecure hosts, certificates, proxies."""

import ipaddress
import os
import ssl
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from orlop.errdefs import InvalidArgumentError
from orlop.oci.reference import DEFAULT_DOMAIN

HUB = "registry-1.docker.io"
_LOOPBACK = ("127.0.0.0/8", "::1/128")


class Endpoint(NamedTuple):
    """A host (with port) that serves a repository; `insecure` allows plain HTTP and unverified certificates."""

    host: str
    insecure: bool = False
    mirror: bool = False
    plain: bool = False
    """Only plain HTTP, as a mirror's http:// URL asks."""


class RegistryConfig(msgspec.Struct, kw_only=True):
    """Settings of a daemon, after daemon.json: `insecure-registries` (hosts or CIDRs), `registry-mirrors` (URLs).

    `certs_dir` holds a directory for each host with authorities (*.crt) and client certificates (*.cert, *.key).
    `attempts` are tries of a request without progress, `backoff` the first pause between them in seconds, which
    doubles; `read_timeout` the longest silence of a registry in seconds.
    """

    insecure: Sequence[str] = ()
    mirrors: Sequence[str] = ()
    certs_dir: str = "/etc/docker/certs.d"
    attempts: int = 5
    backoff: float = 0.25
    read_timeout: float = 60.0
    user_agent: str = "orlop/0.1"

    def endpoints(self, domain: str) -> list[Endpoint]:
        """Where to ask for a repository of `domain`, in order. Raises InvalidArgumentError for a broken mirror."""
        if domain != DEFAULT_DOMAIN:
            return [Endpoint(domain, self.is_insecure(domain))]
        found = []
        for mirror in self.mirrors:
            scheme, separator, rest = mirror.rstrip("/").partition("://")
            if not separator or scheme not in ("http", "https") or "/" in rest or "@" in rest:
                raise InvalidArgumentError(f"invalid mirror: {mirror!r} is not http(s)://host[:port]")
            found.append(Endpoint(rest, self.is_insecure(rest) or scheme == "http", True, scheme == "http"))
        return [*found, Endpoint(HUB)]

    def is_insecure(self, domain: str) -> bool:
        """Whether a host is on the loopback or among the insecure ones, by name or by network."""
        host = split_host(domain)
        if domain in self.insecure or host in self.insecure or host == "localhost":
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        for text in (*_LOOPBACK, *self.insecure):
            try:
                if address in ipaddress.ip_network(text, strict=False):
                    return True
            except ValueError:
                continue  # a host name
        return False

    def tls_context(self, endpoint: Endpoint) -> ssl.SSLContext:
        """How to talk TLS with an endpoint. Raises InvalidArgumentError for unreadable certificates."""
        directory = Path(self.certs_dir, endpoint.host)
        try:
            names = sorted(os.listdir(directory))
        except (FileNotFoundError, NotADirectoryError):
            names = []
        verified = not endpoint.insecure or any(name.endswith(".crt") for name in names)
        # Reading the system's authorities takes 30 ms, for nothing where none is asked.
        context = ssl.create_default_context() if verified else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for name in names:
            path = directory / name
            try:
                if name.endswith(".crt"):
                    context.load_verify_locations(path)
                elif name.endswith(".cert"):
                    context.load_cert_chain(path, path.with_suffix(".key"))
            except (OSError, ssl.SSLError) as error:
                raise InvalidArgumentError(f"cannot use certificate {path}: {error}") from None
        if not verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def split_host(domain: str) -> str:
    """A host without its port and without the brackets of IPv6."""
    if domain.startswith("["):
        return domain[1:].partition("]")[0]
    return domain.partition(":")[0]


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY ask for; none for the loopback."""
    if split_host(host) in ("localhost", "127.0.0.1", "::1"):
        return None
    proxies = urllib.request.getproxies_environment()
    if scheme not in proxies or _bypassed(host, proxies):
        return None
    return proxies[scheme]


def _bypassed(host: str, proxies: dict[str, str]) -> bool:
    bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]  # typeshed does not list it
    return bool(bypass(host, proxies))
