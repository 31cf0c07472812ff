# SPDX-License-Identifier: Apache-2.0
"""The command line of orlopd: each flag sets one key of the configuration."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from orlop import __version__
from orlop.errdefs import InvalidArgumentError

DEFAULT_FILE = "/etc/orlop/daemon.json"


class Flag(NamedTuple):
    """A flag of the command line and the key that it sets; `kind` is one of `_READERS`."""

    name: str
    key: str
    kind: str
    short: str = ""
    usage: str = ""


_FLAGS = (
    Flag("host", "hosts", "list", "H", "Daemon socket(s) to listen on: unix://PATH, fd://, tcp://ADDRESS:PORT"),
    Flag("data-root", "data-root", "text", "", "Root directory of persistent state"),
    Flag("exec-root", "exec-root", "text", "", "Root directory for execution state files"),
    Flag("pidfile", "pidfile", "text", "p", "Path to use for the daemon's PID file"),
    Flag("group", "group", "text", "G", "Group for the unix socket"),
    Flag("debug", "debug", "bool", "D", "Enable debug mode"),
    Flag("log-level", "log-level", "text", "l", "debug, info, warn, error or fatal"),
    Flag("log-format", "log-format", "text", "", "text or json"),
    Flag("raw-logs", "raw-logs", "bool", "", "Accepted; the log has no colours and full timestamps"),
    Flag("experimental", "experimental", "bool"),
    Flag("containerd", "containerd", "text", "", "Address of containerd's gRPC socket"),
    Flag("containerd-namespace", "containerd-namespace", "text", "", "Namespace to use in containerd"),
    Flag("storage-driver", "storage-driver", "text", "s", "Snapshotter to use in containerd"),
    Flag("default-runtime", "default-runtime", "text", "", "Default OCI runtime for containers"),
    Flag("add-runtime", "runtimes", "runtime", "", "Register an additional OCI runtime: NAME=PATH"),
    Flag("exec-opt", "exec-opts", "list"),
    Flag("cgroup-parent", "cgroup-parent", "text", "", "Parent cgroup for all containers"),
    Flag("cdi-spec-dir", "cdi-spec-dirs", "list", "", "Directory that describes devices (CDI)"),
    Flag("init", "init", "bool", "", "Run an init in every container"),
    Flag("init-path", "init-path", "text", "", "Path to the docker-init binary"),
    Flag("seccomp-profile", "seccomp-profile", "text", "", "Path to a seccomp profile, builtin or unconfined"),
    Flag("default-shm-size", "default-shm-size", "text"),
    Flag("default-ipc-mode", "default-ipc-mode", "text", "", "shareable or private"),
    Flag("default-cgroupns-mode", "default-cgroupns-mode", "text", "", "host or private"),
    Flag("default-ulimit", "default-ulimits", "ulimit", "", "Default ulimit: NAME=SOFT[:HARD]"),
    Flag("no-new-privileges", "no-new-privileges", "bool"),
    Flag("userns-remap", "userns-remap", "text", "", "User and group of containers: default, USER or USER:GROUP"),
    Flag("log-driver", "log-driver", "text", "", "Default driver for container logs"),
    Flag("log-opt", "log-opts", "map", "", "Default log driver options: KEY=VALUE"),
    Flag("node-generic-resource", "node-generic-resources", "list", "", "Advertise user-defined resource"),
    Flag("authorization-plugin", "authorization-plugins", "list", "", "Authorization plugins to load"),
    Flag("metrics-addr", "metrics-addr", "text", "", "Address and port to serve metrics on"),
    Flag("label", "labels", "list", "", "Set key=value labels to the daemon"),
    Flag("shutdown-timeout", "shutdown-timeout", "int"),
    Flag("default-stop-timeout", "default-stop-timeout", "int", "", "Seconds between stop signal and SIGKILL"),
    Flag("live-restore", "live-restore", "bool", "", "Accepted; containers always outlive the daemon"),
    Flag("bridge", "bridge", "text", "b", "Attach containers to a network bridge"),
    Flag("bip", "bip", "text", "", "IPv4 address for the default bridge"),
    Flag("bip6", "bip6", "text", "", "IPv6 address for the default bridge"),
    Flag("fixed-cidr", "fixed-cidr", "text", "", "IPv4 subnet for the default bridge network"),
    Flag("fixed-cidr-v6", "fixed-cidr-v6", "text", "", "IPv6 subnet for the default bridge network"),
    Flag("default-gateway", "default-gateway", "text"),
    Flag("default-gateway-v6", "default-gateway-v6", "text"),
    Flag("mtu", "mtu", "int"),
    Flag("icc", "icc", "bool", "", "Enable inter-container communication for the default bridge network"),
    Flag("iptables", "iptables", "bool", "", "Enable the firewall rules"),
    Flag("ip6tables", "ip6tables", "bool"),
    Flag("ip-forward", "ip-forward", "bool"),
    Flag("ip-forward-no-drop", "ip-forward-no-drop", "bool"),
    Flag("ip-masq", "ip-masq", "bool"),
    Flag("ipv6", "ipv6", "bool"),
    Flag("firewall-backend", "firewall-backend", "text", "", "nftables"),
    Flag("ip", "ip", "text", "", "Host IP for port publishing from the default bridge network"),
    Flag("host-firewall", "host-firewall", "bool", "", "Let the machine's own firewall judge published ports"),
    Flag("allow-direct-routing", "allow-direct-routing", "bool"),
    Flag("bridge-accept-fwmark", "bridge-accept-fwmark", "text", "", "Accept packets with this MARK or MARK/MASK"),
    Flag("userland-proxy", "userland-proxy", "bool"),
    Flag("userland-proxy-path", "userland-proxy-path", "text"),
    Flag("dns", "dns", "list"),
    Flag("dns-opt", "dns-opts", "list"),
    Flag("dns-search", "dns-search", "list"),
    Flag("host-gateway-ip", "host-gateway-ips", "list"),
    Flag("default-network-opt", "default-network-opts", "network-option", "", "DRIVER=OPTION=VALUE"),
    Flag("default-address-pool", "default-address-pools", "pool", "", "base=CIDR,size=BITS"),
    Flag("http-proxy", "http-proxy", "text", "", "HTTP proxy URL to use for outgoing traffic"),
    Flag("https-proxy", "https-proxy", "text", "", "HTTPS proxy URL to use for outgoing traffic"),
    Flag("no-proxy", "no-proxy", "text", "", "Comma-separated hosts or IP addresses that need no proxy"),
    Flag("insecure-registry", "insecure-registries", "list"),
    Flag("registry-mirror", "registry-mirrors", "list"),
    Flag("max-concurrent-downloads", "max-concurrent-downloads", "int"),
    Flag("max-concurrent-uploads", "max-concurrent-uploads", "int"),
    Flag("max-download-attempts", "max-download-attempts", "int"),
    Flag("tls", "tls", "bool", "", "Use TLS; implied by --tlsverify"),
    Flag("tlsverify", "tlsverify", "bool", "", "Use TLS and verify the remote"),
    Flag("tlscacert", "tlscacert", "text"),
    Flag("tlscert", "tlscert", "text"),
    Flag("tlskey", "tlskey", "text"),
    Flag("feature", "features", "feature", "", "Enable feature in the daemon: NAME[=BOOL]"),
    # What Docker's has and this daemon does not do: refused where it would matter, else passed over.
    Flag("containerd-plugins-namespace", "containerd-plugins-namespace", "text"),
    Flag("cpu-rt-period", "cpu-rt-period", "int"),
    Flag("cpu-rt-runtime", "cpu-rt-runtime", "int"),
    Flag("cri-containerd", "cri-containerd", "bool"),
    Flag("network-control-plane-mtu", "network-control-plane-mtu", "int"),
    Flag("network-diagnostic-port", "network-diagnostic-port", "int"),
    Flag("nri-opts", "nri-opts", "text"),
    Flag("rootless", "rootless", "bool"),
    Flag("selinux-enabled", "selinux-enabled", "bool"),
    Flag("storage-opt", "storage-opts", "list"),
    Flag("swarm-default-advertise-addr", "swarm-default-advertise-addr", "text"),
)
_LISTS = frozenset({"list", "map", "ulimit", "runtime", "pool", "feature", "network-option"})


class Options(NamedTuple):
    """What the command line said: settings by key, and what is no setting."""

    settings: dict[str, Any]
    config_file: str
    explicit_file: bool
    validate: bool


def parse_flags(argv: Sequence[str]) -> Options:
    """Read the command line (without the program's name); exits on --help, --version and unknown flags."""
    parser = argparse.ArgumentParser(
        prog="orlopd", allow_abbrev=False, description="The Docker Engine API over containerd."
    )
    parser.add_argument("--config-file", default="", metavar="FILE", help=f"default {DEFAULT_FILE}")
    parser.add_argument("--validate", action="store_true", help="Validate the configuration and exit")
    parser.add_argument("-v", "--version", action="version", version=f"orlopd version {__version__}")
    for flag in _FLAGS:
        names = [f"--{flag.name}"] + ([f"-{flag.short}"] if flag.short else [])
        if flag.kind == "bool":
            parser.add_argument(*names, dest=flag.name, nargs="?", const="true", help=flag.usage)
        elif flag.kind in _LISTS:
            parser.add_argument(*names, dest=flag.name, action="append", help=flag.usage)
        else:
            parser.add_argument(*names, dest=flag.name, help=flag.usage)
    given = vars(parser.parse_args(argv))
    settings = {
        flag.key: _READERS[flag.kind](flag.name, given[flag.name])
        for flag in _FLAGS
        if given[flag.name] is not None
    }
    file = given["config_file"]
    return Options(settings, file or DEFAULT_FILE, bool(file), given["validate"])


def _read_bool(name: str, value: str) -> bool:
    known = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
    if value.lower() not in known:
        raise InvalidArgumentError(f"invalid argument {value!r} for --{name}: not true or false")
    return known[value.lower()]


def _read_int(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise InvalidArgumentError(f"invalid argument {value!r} for --{name}: not a number") from None


def _read_map(name: str, values: list[str]) -> dict[str, str]:
    result = {}
    for value in values:
        key, equals, setting = value.partition("=")
        if not equals or not key:
            raise InvalidArgumentError(f"invalid argument {value!r} for --{name}: not KEY=VALUE")
        result[key] = setting
    return result


def _read_runtimes(name: str, values: list[str]) -> dict[str, dict[str, str]]:
    return {key: {"path": path} for key, path in _read_map(name, values).items()}


def _read_ulimits(name: str, values: list[str]) -> dict[str, dict[str, Any]]:
    result = {}
    for key, limits in _read_map(name, values).items():
        soft, _, hard = limits.partition(":")
        result[key] = {"Name": key, "Soft": _read_int(name, soft), "Hard": _read_int(name, hard or soft)}
    return result


def _read_pools(name: str, values: list[str]) -> list[dict[str, Any]]:
    pools = []
    for value in values:
        parts = _read_map(name, value.split(","))
        if set(parts) != {"base", "size"}:
            raise InvalidArgumentError(f"invalid argument {value!r} for --{name}: not base=CIDR,size=BITS")
        pools.append({"base": parts["base"], "size": _read_int(name, parts["size"])})
    return pools


def _read_network_options(name: str, values: list[str]) -> dict[str, dict[str, str]]:
    result: dict[str, dict[str, str]] = {}
    for value in values:
        driver, _, option = value.partition("=")
        key, equals, setting = option.partition("=")
        if not equals or not key:
            raise InvalidArgumentError(f"invalid argument {option!r} for --{name}: not DRIVER=OPTION=VALUE")
        result.setdefault(driver, {})[key] = setting
    return result


def _read_features(name: str, values: list[str]) -> dict[str, bool]:
    return {key: _read_bool(name, value or "true") for key, _, value in (value.partition("=") for value in values)}


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "text": lambda name, value: value,
    "list": lambda name, value: value,
    "bool": _read_bool,
    "int": _read_int,
    "map": _read_map,
    "runtime": _read_runtimes,
    "ulimit": _read_ulimits,
    "pool": _read_pools,
    "feature": _read_features,
    "network-option": _read_network_options,
}
