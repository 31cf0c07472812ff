# SPDX-License-Identifier: Apache-2.0
"""orlopd's settings: what each key of daemon.json is."""

import os
import re
from typing import Any

import msgspec

from orlop.dockerd.access.policy import Entry
from orlop.dockerd.api import version as api_version
from orlop.engine.durations import parse_duration
from orlop.errdefs import InvalidArgumentError


class RuntimeConfig(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One entry of `runtimes`: the binary of an OCI runtime, or the name of a containerd shim with its options."""

    path: str = ""
    runtime_args: list[str] = []
    runtime_type: str = ""
    options: dict[str, Any] = {}


class AddressPool(msgspec.Struct, kw_only=True):
    """A range from which networks get subnets of `size` bits."""

    base: str
    size: int


class DefaultUlimit(msgspec.Struct, kw_only=True):
    """One entry of `default-ulimits`."""

    name: str = msgspec.field(default="", name="Name")
    soft: int = msgspec.field(default=0, name="Soft")
    hard: int = msgspec.field(default=0, name="Hard")


class Proxies(msgspec.Struct, kw_only=True, rename="kebab"):
    """By which proxies registries are reached."""

    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""


class Config(msgspec.Struct, kw_only=True, rename="kebab"):
    """The settings that have an effect, under their names in daemon.json. Sizes in bytes, timeouts in seconds.

    There is one instance in a daemon; a reload changes it in place, so settings are read when they are needed.
    """

    hosts: list[str] = []
    data_root: str = "/var/lib/orlop"
    exec_root: str = "/run/orlop"
    pidfile: str = ""
    group: str = "docker"
    debug: bool = False
    log_level: str = "info"
    log_format: str = "text"
    experimental: bool = False
    min_api_version: str = ""
    containerd: str = "/run/orlop/containerd/containerd.sock"
    containerd_namespace: str = "moby"
    storage_driver: str = "overlayfs"
    default_runtime: str = "orlop"
    runtimes: dict[str, RuntimeConfig] = {}
    exec_opts: list[str] = []
    cgroup_parent: str = ""
    cdi_spec_dirs: list[str] = msgspec.field(default_factory=lambda: ["/etc/cdi", "/var/run/cdi"])
    init: bool = False
    init_path: str = ""
    seccomp_profile: str = ""
    default_shm_size: int | str = 64 << 20
    default_ipc_mode: str = "private"
    default_cgroupns_mode: str = ""
    default_ulimits: dict[str, DefaultUlimit] = {}
    no_new_privileges: bool = False
    userns_remap: str = ""
    log_driver: str = "json-file"
    log_opts: dict[str, str] = {}
    labels: list[str] = []
    authorization_plugins: list[str] = []
    socket_policy: list[Entry] = []
    """Not in Docker: what users and groups may do on unix sockets; empty: who can connect may do all."""
    metrics_addr: str = ""
    node_generic_resources: list[str] = []
    raw_logs: bool = False
    shutdown_timeout: int = 15
    default_stop_timeout: int = 10
    live_restore: bool = True
    # network
    bridge: str = ""
    bip: str = ""
    bip6: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    mtu: int = 1500
    icc: bool = True
    iptables: bool = True
    ip6tables: bool = True
    ip_forward: bool = True
    ip_forward_no_drop: bool = False
    ip_masq: bool = True
    ipv6: bool = False
    ip: str = "0.0.0.0"
    firewall_backend: str = ""
    userland_proxy: bool = True
    userland_proxy_path: str = ""
    dns: list[str] = []
    dns_opts: list[str] = []
    dns_search: list[str] = []
    host_gateway_ips: list[str] = []
    default_address_pools: list[AddressPool] = []
    default_network_opts: dict[str, dict[str, str]] = {}
    allow_direct_routing: bool = False
    bridge_accept_fwmark: str = ""
    host_firewall: bool = False
    # images
    insecure_registries: list[str] = []
    registry_mirrors: list[str] = []
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    image_store_max_size: int | str = 0
    """Not in Docker: over it, images go that were used least recently; 0: none goes."""
    image_store_min_age: str = "24h"
    """Not in Docker: what was used within it stays, whatever the size."""
    proxies: Proxies = msgspec.field(default_factory=Proxies)
    # TLS
    tls: bool | None = None
    """None: nothing was said, which is not the same as a deliberate no."""
    tlsverify: bool | None = None
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    features: dict[str, bool] = {}

    @property
    def shm_size(self) -> int:
        """`default-shm-size` in bytes."""
        return parse_size(self.default_shm_size, "default-shm-size")

    @property
    def image_policy(self) -> tuple[int, int]:
        """How large the image store may be, in bytes, and how old what goes has to be, in nanoseconds."""
        size = parse_size(self.image_store_max_size, "image-store-max-size")
        try:
            return size, parse_duration(self.image_store_min_age)
        except ValueError as error:
            raise InvalidArgumentError(f"invalid image-store-min-age: {error}") from None

    @property
    def lowest_api_version(self) -> api_version.Version:
        """The oldest API version that is served."""
        text = os.environ.get("DOCKER_MIN_API_VERSION") or self.min_api_version
        return api_version.parse(text) if text else api_version.DEFAULT_MIN

    @property
    def cdi_directories(self) -> list[str]:
        """Where devices are described; none where that is turned off."""
        if self.features.get("cdi") is False:
            return []
        return [directory for directory in self.cdi_spec_dirs if directory]

    @property
    def systemd_cgroup(self) -> bool:
        """Whether systemd makes the containers' control groups: `native.cgroupdriver`, or without it, as with
        Docker, where it runs and there is version 2 alone.
        """
        for option in self.exec_opts:
            key, _, value = option.partition("=")
            if key.strip().lower() == "native.cgroupdriver":
                return value.strip() == "systemd"
        return os.path.exists("/sys/fs/cgroup/cgroup.controllers") and os.path.isdir("/run/systemd/system")


def parse_size(value: int | str, name: str) -> int:
    """`64m`, `1GiB` or a number as bytes (units of 1024). Raises InvalidArgumentError that names the setting."""
    if isinstance(value, int):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", value.strip().lower())
    if not found:
        raise InvalidArgumentError(f"invalid {name}: {value!r} is no size")
    return int(float(found[1]) * 1024 ** " kmgtp".index(found[2] or " "))
