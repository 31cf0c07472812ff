# SPDX-License-Identifier: Apache-2.0
"""A container's resolv.conf and hosts, out of its request, the daemon's settings and the host's own files."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from orlop.dockerd.network import drivers, files, requests
from orlop.dockerd.network.types import DnsSettings, Network, NetworkConfig, SandboxRequest

_RESOLV_CONF = "/etc/resolv.conf"
_RESOLVED_CONF = "/run/systemd/resolve/resolv.conf"
_RESOLVED_STUB = ("127.0.0.53",)
_HOSTS = "/etc/hosts"
_IPV6 = "/proc/sys/net/ipv6"


class Files(NamedTuple):
    """What is known of the files before the container has addresses."""

    request: SandboxRequest | None
    resolv_conf: str
    dns: DnsSettings
    extra: list[tuple[str, str]]
    of_host: bool

    def hosts(self, addresses: Sequence[str]) -> str:
        """The hosts file."""
        if self.request is None:
            return ""
        if self.of_host and not self.extra:
            return _read(_HOSTS)
        return files.hosts(
            hostname=self.request.hostname,
            domainname=self.request.domainname,
            addresses=addresses,
            extra=self.extra,
            ipv6=os.path.exists(_IPV6),
        )


NO_FILES = Files(None, "", DnsSettings(), [], False)


def compute(
    request: SandboxRequest, networks: Sequence[Network], config: NetworkConfig, host_gateway: str
) -> Files:
    """The files of a container in `networks`, that of its mode first; `host_gateway` is the default bridge's own
    address.

    Raises InvalidArgumentError naming the setting.
    """
    own = drivers.of(networks[0]).own_namespace
    embedded = any(network.served for network in networks)
    host, source = _of_host(stub=embedded or not own)
    dns = request.dns or config.dns
    options = request.dns_options or config.dns_options
    resolv_conf = files.resolv_conf(
        host,
        source=source,
        dns=dns,
        search=request.dns_search or config.dns_search,
        options=options,
        own_namespace=own,
        embedded=embedded,
    )
    extra = requests.extra_hosts(request, config.host_gateway_ip or host_gateway, links=not networks[0].served)
    return Files(request, resolv_conf, files.upstreams(host, dns, options), extra, not own)


def hosts_lines(request: SandboxRequest, addresses: Sequence[str]) -> str:
    """What a container's hosts file says about its addresses in one more network."""
    return "".join(files.hosts_line(address, request.hostname, request.domainname) for address in addresses)


def _of_host(*, stub: bool) -> tuple[files.ResolvConf, str]:
    """The host's resolver settings and their file. Without `stub`: systemd-resolved's servers in its own place.

    Its stub listens where only the host is. orlop-netd can ask it, and gets what systemd-resolved knows of links.
    """
    host = files.parse_resolv_conf(_read(_RESOLV_CONF))
    if not stub and host.nameservers == _RESOLVED_STUB and os.path.exists(_RESOLVED_CONF):
        return files.parse_resolv_conf(_read(_RESOLVED_CONF)), _RESOLVED_CONF
    return host, _RESOLV_CONF


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""
