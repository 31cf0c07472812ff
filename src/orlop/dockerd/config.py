# SPDX-License-Identifier: Apache-2.0
"""orlopd's settings: daemon.json and flags, merged and checked."""

import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec

from orlop.dockerd.api import version as api_version
from orlop.dockerd.flags import Options
from orlop.errdefs import InvalidArgumentError

DEFAULT_HOST = "unix:///run/orlop/docker.sock"


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


class Config(msgspec.Struct, kw_only=True, rename="kebab"):
    """The settings that have an effect, under their names in daemon.json. Sizes in bytes, timeouts in seconds."""

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
    init: bool = False
    init_path: str = ""
    seccomp_profile: str = ""
    default_shm_size: int | str = 64 << 20
    default_ipc_mode: str = "private"
    default_cgroupns_mode: str = ""
    default_ulimits: dict[str, DefaultUlimit] = {}
    no_new_privileges: bool = False
    log_driver: str = "json-file"
    log_opts: dict[str, str] = {}
    labels: list[str] = []
    shutdown_timeout: int = 15
    default_stop_timeout: int = 10
    live_restore: bool = True
    # network
    bridge: str = ""
    bip: str = ""
    fixed_cidr: str = ""
    default_gateway: str = ""
    mtu: int = 1500
    icc: bool = True
    iptables: bool = True
    ip6tables: bool = True
    ip_forward: bool = True
    ip_masq: bool = True
    ipv6: bool = False
    ip: str = "0.0.0.0"
    userland_proxy: bool = True
    userland_proxy_path: str = ""
    dns: list[str] = []
    dns_opts: list[str] = []
    dns_search: list[str] = []
    host_gateway_ips: list[str] = []
    default_address_pools: list[AddressPool] = []
    # images
    insecure_registries: list[str] = []
    registry_mirrors: list[str] = []
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    # TLS
    tls: bool = False
    tlsverify: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    features: dict[str, bool] = {}

    @property
    def shm_size(self) -> int:
        """`default-shm-size` in bytes."""
        return parse_size(self.default_shm_size, "default-shm-size")

    @property
    def lowest_api_version(self) -> api_version.Version:
        """The oldest API version that is served."""
        text = os.environ.get("DOCKER_MIN_API_VERSION") or self.min_api_version
        return api_version.parse(text) if text else api_version.DEFAULT_MIN

    @property
    def systemd_cgroup(self) -> bool:
        """Whether `native.cgroupdriver=systemd` is asked for."""
        return "native.cgroupdriver=systemd" in self.exec_opts


# Keys of Docker's daemon.json that this daemon reads past: valid there, without a counterpart here.
_WITHOUT_EFFECT = frozenset(
    {
        "allow-direct-routing",
        "authorization-plugins",
        "bip6",
        "bridge-accept-fwmark",
        "builder",
        "cdi-spec-dirs",
        "containerd-plugins-namespace",
        "cpu-rt-period",
        "cpu-rt-runtime",
        "cri-containerd",
        "default-gateway-v6",
        "default-network-opts",
        "firewall-backend",
        "fixed-cidr-v6",
        "host-gateway-ip",
        "ip-forward-no-drop",
        "metrics-addr",
        "network-control-plane-mtu",
        "network-diagnostic-port",
        "node-generic-resources",
        "nri-opts",
        "proxies",
        "raw-logs",
        "rootless",
        "selinux-enabled",
        "storage-opts",
        "swarm-default-advertise-addr",
        "userns-remap",
    }
)
# Settings that change what a user may rely on for safety: refused rather than passed over.
_REFUSED = {
    "authorization-plugins": "authorization plugins are not supported",
    "userns-remap": "user namespace remapping is not supported",
    "selinux-enabled": "SELinux is not supported",
    "rootless": "rootless mode is not supported",
}
_KEYS = frozenset(field.encode_name for field in msgspec.structs.fields(Config))


def load(options: Options) -> Config:
    """Merge file and flags, and check the whole. Raises InvalidArgumentError with one line that names the key."""
    try:
        from_file = _read_file(Path(options.config_file), required=options.explicit_file)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(
            f"unable to configure the daemon with file {options.config_file}: {error}"
        ) from None
    both = sorted(key for key in from_file if key in options.settings)
    if both:
        raise InvalidArgumentError(
            f"unable to configure the daemon with file {options.config_file}: the following directives are "
            f"specified both as a flag and in the configuration file: {', '.join(both)}"
        )
    try:
        config = msgspec.convert({**from_file, **options.settings}, Config)
    except msgspec.ValidationError as error:
        raise InvalidArgumentError(f"invalid configuration: {error}") from None
    _check(config)
    return config


def parse_size(value: int | str, name: str) -> int:
    """`64m`, `1GiB` or a number as bytes (units of 1024). Raises InvalidArgumentError that names the setting."""
    if isinstance(value, int):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", value.strip().lower())
    if not found:
        raise InvalidArgumentError(f"invalid {name}: {value!r} is no size")
    return int(float(found[1]) * 1024 ** " kmgtp".index(found[2] or " "))


def _read_file(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        if required:
            raise InvalidArgumentError("no such file") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(str(error)) from None
    if not text.strip():
        return {}
    try:
        raw = json.loads(text, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        raise InvalidArgumentError(f"line {error.lineno}: {error.msg}") from None
    if not isinstance(raw, dict):
        raise InvalidArgumentError("not a JSON object")
    settings = {}
    for key, value in raw.items():
        if key in _REFUSED and value not in (False, [], ""):
            raise InvalidArgumentError(f"{key}: {_REFUSED[key]}")
        if key in _KEYS:
            settings[key] = value
        elif key not in _WITHOUT_EFFECT:
            raise InvalidArgumentError(f"the following directives don't match any configuration option: {key}")
    return settings


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgumentError(f"duplicate key {twice}")
    return result


def _check(config: Config) -> None:
    if config.log_level not in ("debug", "info", "warn", "error", "fatal"):
        raise InvalidArgumentError(f"log-level: invalid logging level: {config.log_level}")
    if config.log_format not in ("text", "json"):
        raise InvalidArgumentError(f"log-format: invalid log format: {config.log_format}")
    if config.default_ipc_mode not in ("private", "shareable"):
        raise InvalidArgumentError(f"default-ipc-mode: {config.default_ipc_mode!r} is not private or shareable")
    if config.default_cgroupns_mode not in ("", "private", "host"):
        raise InvalidArgumentError(
            f"default-cgroupns-mode: {config.default_cgroupns_mode!r} is not private or host"
        )
    for key in ("data_root", "exec_root"):
        if not getattr(config, key).startswith("/"):
            raise InvalidArgumentError(f"{key.replace('_', '-')}: {getattr(config, key)!r} is no absolute path")
    if config.shm_size < 0:
        raise InvalidArgumentError("default-shm-size: must not be negative")
    lowest = config.lowest_api_version
    if not api_version.FLOOR <= lowest <= api_version.MAX:
        raise InvalidArgumentError(
            f"min-api-version: {api_version.text(lowest)} is not between {api_version.text(api_version.FLOOR)} "
            f"and {api_version.text(api_version.MAX)}"
        )
    for label in config.labels:
        if "=" not in label:
            raise InvalidArgumentError(f"labels: bad attribute format: {label}")
    for option in config.exec_opts:
        if option not in ("native.cgroupdriver=systemd", "native.cgroupdriver=cgroupfs"):
            raise InvalidArgumentError(f"exec-opts: unknown option {option}")
    for host in config.hosts:
        if not host.startswith(("unix://", "fd://", "tcp://")):
            raise InvalidArgumentError(f"hosts: invalid bind address ({host}): use unix://, fd:// or tcp://")
