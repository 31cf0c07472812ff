# SPDX-License-Identifier: Apache-2.0
"""Where a registry is found and how it is trusted: mirrors, insecure hosts, certificates, proxies."""

import ipaddress
import ssl
import urllib.request
from collections.abc import Callable, Sequence

import msgspec

from orlop.errdefs import InvalidArgumentError
from orlop.oci.reference import DEFAULT_DOMAIN
from orlop.registry.endpoint import Certificates, Endpoint
from orlop.registry.hosts import host_directory, read_hosts
from orlop.tls import client_context

HOSTS_DIRS = ("/etc/containerd/certs.d",)
"""Where clients of containerd look for `hosts.toml`, before Docker's directory."""
HUB = "registry-1.docker.io"
_LOOPBACK = ("127.0.0.0/8", "::1/128")


class RegistryConfig(msgspec.Struct, kw_only=True):
    """Settings of a daemon, after daemon.json: `insecure-registries` (hosts or CIDRs), `registry-mirrors` (URLs).

    `certs_dir` and before it `hosts_dirs` hold a directory for each registry with a `hosts.toml` or, without one,
    with authorities (*.crt) and client certificates (*.cert, *.key). `headers` go with every request to a registry
    itself.
    `attempts` are tries of a request without progress, `backoff` the first pause between them in seconds, which
    doubles; `read_timeout` the longest silence of a registry in seconds.

    For one registry, as the flags of a command say: `scheme` is how it is reached whatever `insecure` says,
    `skip_verify` leaves its certificate unread, and `certificates` are used instead of those of the directories.
    `dump` is told each request and answer (headers, credentials left out), `trace` each step of the connection.
    """

    insecure: Sequence[str] = ()
    mirrors: Sequence[str] = ()
    certs_dir: str = "/etc/docker/certs.d"
    hosts_dirs: Sequence[str] = ()
    headers: Sequence[tuple[str, str]] = ()
    attempts: int = 5
    backoff: float = 0.25
    read_timeout: float = 60.0
    user_agent: str = "orlop/0.1"
    scheme: str = ""
    skip_verify: bool = False
    certificates: Certificates | None = None
    dump: Callable[[str], None] | None = None
    trace: Callable[[str], None] | None = None

    def endpoints(self, domain: str) -> list[Endpoint]:
        """Where to ask for a repository of `domain`, in order.

        Raises InvalidArgumentError for a broken mirror or `hosts.toml`.
        """
        mirrors = [self._mirror(address) for address in self.mirrors] if domain == DEFAULT_DOMAIN else []
        configured = self._configured(domain)
        return [*mirrors, *(configured if configured is not None else [self._itself(domain)])]

    def _itself(self, domain: str) -> Endpoint:
        hub = domain == DEFAULT_DOMAIN
        insecure = not hub and self.is_insecure(domain)
        schemes = (self.scheme,) if self.scheme else ("https", "http") if insecure else ("https",)
        return Endpoint(
            HUB if hub else domain,
            schemes,
            insecure or self.skip_verify or self.scheme == "http",
            headers=tuple(self.headers),
            certificates=self.certificates,
        )

    def _mirror(self, address: str) -> Endpoint:
        scheme, separator, rest = address.rstrip("/").partition("://")
        if not separator or scheme not in ("http", "https") or "/" in rest or "@" in rest:
            raise InvalidArgumentError(f"invalid mirror: {address!r} is not http(s)://host[:port]")
        insecure = self.is_insecure(rest) or scheme == "http"
        schemes = ("http",) if scheme == "http" else ("https", "http") if insecure else ("https",)
        return Endpoint(rest, schemes, insecure, mirror=True)

    def _configured(self, domain: str) -> list[Endpoint] | None:
        """What the first `hosts.toml` for the registry says; None where there is none."""
        for root in (*self.hosts_dirs, self.certs_dir):
            directory = host_directory(root, domain)
            if directory is not None:
                found = read_hosts(directory, domain, self._itself(domain))
                if found is not None:
                    return found
        return None

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
        files = endpoint.certificates
        if files is None:
            files = self._certificates(endpoint.host)
        verified = not endpoint.insecure or bool(files.authorities)
        # Reading the system's authorities takes 30 ms, for nothing where none is asked.
        context = client_context() if verified else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        path = ""
        try:
            for path in files.authorities:
                context.load_verify_locations(path)
            for path, key in files.clients:
                context.load_cert_chain(path, key or None)
        except (OSError, ssl.SSLError) as error:
            raise InvalidArgumentError(f"cannot use certificate {path}: {error}") from None
        if not verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def _certificates(self, host: str) -> Certificates:
        """The files of the first directory that is there for a host."""
        for root in (*self.hosts_dirs, self.certs_dir):
            directory = host_directory(root, host)
            if directory is None:
                continue
            paths = sorted(directory.iterdir())
            return Certificates(
                tuple(str(path) for path in paths if path.suffix == ".crt"),
                tuple((str(path), str(path.with_suffix(".key"))) for path in paths if path.suffix == ".cert"),
            )
        return Certificates()


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
