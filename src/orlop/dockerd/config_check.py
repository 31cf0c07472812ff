# SPDX-License-Identifier: Apache-2.0
"""Refuses settings that cannot work, with Docker's words where it has some."""

import ipaddress
import re
import socket
from urllib.parse import urlsplit

from orlop.dockerd.access import policy
from orlop.dockerd.api import version as api_version
from orlop.dockerd.config import Config
from orlop.dockerd.logging.options import check_log_config
from orlop.dockerd.spec.validate import check_cgroup_parent
from orlop.engine.types import LogConfig
from orlop.errdefs import InvalidArgumentError

DEFAULT_SOCKET = "/run/orlop/docker.sock"
_LOG_LEVELS = ("debug", "info", "warn", "error", "fatal")
_AT_LEAST_ZERO = (
    ("mtu", "default MTU"),
    ("max_concurrent_downloads", "max concurrent downloads"),
    ("max_concurrent_uploads", "max concurrent uploads"),
    ("max_download_attempts", "max download attempts"),
    ("default_stop_timeout", "default stop timeout"),
)
_DOMAIN = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9_-]*[a-zA-Z0-9])?\.?)+")
_GENERIC_RESOURCE = re.compile(r"[^=\s]+=[^=\s]+")


def check(config: Config) -> None:
    """Raises InvalidArgumentError with one line."""
    _check_daemon(config)
    _check_defaults(config)
    _check_numbers(config)
    _check_logging(config)
    _check_network(config)
    for host in config.hosts:
        parse_host(host)
    for mirror in config.registry_mirrors:
        _check_mirror(mirror)
    check_labels(config.labels)
    policy.check(config.socket_policy)


def check_labels(labels: list[str]) -> None:
    """`key=value` each, and no key with two values. Raises InvalidArgumentError."""
    values: dict[str, str] = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals or not key:
            raise InvalidArgumentError(f"bad attribute format: {label}")
        if values.setdefault(key, value) != value:
            raise InvalidArgumentError(f"conflict labels for {key}={value} and {key}={values[key]}")


def parse_host(host: str) -> tuple[str, str]:
    """Scheme and address of an entry of `hosts`: `unix` /path, `fd` text, `tcp` host:port.

    Raises InvalidArgumentError.
    """
    scheme, separator, rest = host.partition("://")
    if not separator:
        scheme, rest = "tcp", host
    if scheme == "unix":
        if "://" in rest:
            raise InvalidArgumentError(f"invalid bind address ({host}): invalid unix address: {rest}")
        if rest and not rest.startswith("/"):
            raise InvalidArgumentError(f"invalid bind address ({host}): {rest!r} is no absolute path")
        return scheme, rest or DEFAULT_SOCKET
    if scheme == "fd":
        return scheme, rest
    if scheme != "tcp":
        raise InvalidArgumentError(f"invalid bind address ({host}): unsupported proto '{scheme}'")
    try:
        split = urlsplit(f"tcp://{rest}")
        port = split.port
    except ValueError as error:
        raise InvalidArgumentError(f"invalid bind address ({host}): {error}") from None
    if split.path or split.query:
        raise InvalidArgumentError(f"invalid bind address ({host}): should not contain a path element")
    if port == 0:
        raise InvalidArgumentError(f"invalid bind address ({host}): invalid port: 0")
    name = split.hostname or "localhost"
    return scheme, f"{f'[{name}]' if ':' in name else name}:{port or 2375}"


def _check_daemon(config: Config) -> None:
    if config.log_level not in _LOG_LEVELS:
        raise InvalidArgumentError(f"invalid logging level: {config.log_level}")
    if config.log_format not in ("text", "json"):
        raise InvalidArgumentError(f"invalid log format: {config.log_format}")
    for key in ("data_root", "exec_root"):
        if not getattr(config, key).startswith("/"):
            raise InvalidArgumentError(f"{key.replace('_', '-')}: {getattr(config, key)!r} is no absolute path")
    lowest = config.lowest_api_version
    if lowest < api_version.FLOOR:
        raise InvalidArgumentError(
            f"minimum supported API version is {api_version.text(api_version.FLOOR)}: {api_version.text(lowest)}"
        )
    if lowest > api_version.MAX:
        raise InvalidArgumentError(
            f"maximum supported API version is {api_version.text(api_version.MAX)}: {api_version.text(lowest)}"
        )
    if config.metrics_addr and not config.metrics_addr.rpartition(":")[2].isdecimal():
        raise InvalidArgumentError(f"metrics-addr: {config.metrics_addr!r} is not ADDRESS:PORT")
    for resource in config.node_generic_resources:
        if not _GENERIC_RESOURCE.fullmatch(resource):
            raise InvalidArgumentError(f"node-generic-resources: {resource!r} is not NAME=VALUE")


def _check_defaults(config: Config) -> None:
    if config.default_ipc_mode not in ("", "private", "shareable"):
        raise InvalidArgumentError(
            f'IPC mode "{config.default_ipc_mode}" is not supported as default value; use "shareable" or "private"'
        )
    if config.default_cgroupns_mode not in ("", "private", "host"):
        raise InvalidArgumentError(
            f'invalid default cgroup namespace ({config.default_cgroupns_mode}): use "host" or "private"'
        )
    if min(config.image_policy) < 0:
        raise InvalidArgumentError("image-store-max-size, image-store-min-age: must not be negative")
    if config.shm_size < 0:
        raise InvalidArgumentError("default-shm-size: must not be negative")
    for option in config.exec_opts:
        key, _, value = (part.strip() for part in option.partition("="))
        if not key or not value:
            raise InvalidArgumentError(f"invalid exec-opt ({option}): must be formatted 'opt=value'")
        if key.lower() != "native.cgroupdriver":
            raise InvalidArgumentError(f"invalid exec-opt ({option}): unknown option: '{key.lower()}'")
        if value not in ("systemd", "cgroupfs"):
            raise InvalidArgumentError(f'invalid setting "{value}" for native.cgroupdriver')
    check_cgroup_parent(config.cgroup_parent, systemd=config.systemd_cgroup)


def _check_logging(config: Config) -> None:
    """Only where options are given, as in Docker: what a driver needs may come with each container."""
    if config.log_opts:
        try:
            check_log_config(LogConfig(type=config.log_driver, config=config.log_opts))
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"failed to set log opts: {error}") from None


def _check_numbers(config: Config) -> None:
    for field, name in _AT_LEAST_ZERO:
        if getattr(config, field) < 0:
            raise InvalidArgumentError(f"invalid {name}: {getattr(config, field)}")


def _check_network(config: Config) -> None:
    if config.host_firewall and not config.userland_proxy:
        raise InvalidArgumentError("host-firewall: needs userland-proxy, which carries what the firewall lets in")
    for address in (*config.dns, *config.host_gateway_ips):
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise InvalidArgumentError(f"IP address is not correctly formatted: {address}") from None
    for name in config.dns_search:
        if name != "." and not _DOMAIN.fullmatch(name):
            raise InvalidArgumentError(f"{name} is not a valid domain")
    if config.firewall_backend not in ("", "nftables"):
        if config.firewall_backend == "iptables":
            raise InvalidArgumentError("firewall-backend: rules are made by nftables only")
        raise InvalidArgumentError('invalid firewall-backend: allowed values are "iptables" and "nftables"')
    families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in config.host_gateway_ips]
    for family, text in ((socket.AF_INET, "IPv4"), (socket.AF_INET6, "IPv6")):
        if families.count(family) > 1:
            raise InvalidArgumentError(f"only one {text} host gateway IP address can be specified")


def _check_mirror(mirror: str) -> None:
    split = urlsplit(mirror)
    if split.scheme not in ("http", "https"):
        raise InvalidArgumentError(f'invalid mirror: no scheme specified for "{mirror}": must use either '
                                   "'https://' or 'http://'")  # fmt: skip
    if split.query or split.fragment:
        raise InvalidArgumentError(f'invalid mirror: query or fragment at end of the URI "{mirror}"')
    if split.username:
        raise InvalidArgumentError(f'invalid mirror: username/password not allowed in URI "{split.hostname}"')
