# SPDX-License-Identifier: Apache-2.0
"""What older API versions saw differently: pure functions from the latest form of an answer to theirs."""

import re
from typing import Any

from orlop.dockerd.api.version import Version
from orlop.dockerd.network.options import SYSCTLS
from orlop.engine.types import CreateRequest, EndpointSettings, Mount, PortBinding
from orlop.errdefs import InvalidArgumentError

View = dict[str, Any]

_INTERFACE_SYSCTL = re.compile(r"net\.(?P<family>[^.]+)\.(?P<kind>[^.]+)\.(?P<interface>eth[^.]*)\.(?P<rest>.+)")


def info(view: View, version: Version) -> View:
    """GET /info."""
    if version < (1, 44):
        for runtime in view["Runtimes"].values():
            runtime.pop("status", None)
    if version < (1, 46):
        view.pop("Containerd", None)
    if version < (1, 47):
        view["RegistryConfig"] |= {
            "AllowNondistributableArtifactsCIDRs": None,
            "AllowNondistributableArtifactsHostnames": None,
        }
    if version < (1, 49):
        view.pop("FirewallBackend", None)
        for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            view[name]["Expected"] = view[name]["ID"]
    if version < (1, 50):
        view |= {"BridgeNfIptables": False, "BridgeNfIp6tables": False}
        view.pop("DiscoveredDevices", None)
    return view


def container(view: View, version: Version) -> View:
    """GET /containers/{id}/json."""
    networks: View = view["NetworkSettings"]["Networks"]
    if version < (1, 45):
        short = view["Id"][:12]
        for name, settings in networks.items():
            if name not in ("bridge", "host", "none"):
                aliases = settings.get("Aliases") or []
                settings["Aliases"] = aliases if short in aliases else [*aliases, short]
    if version < (1, 48):
        view.pop("ImageManifestDescriptor", None)
    if version < (1, 52):
        bridge = networks.get("bridge") or {}
        view["NetworkSettings"] |= {
            "Bridge": "",
            "HairpinMode": False,
            "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None,
            "EndpointID": bridge.get("EndpointID", ""),
            "Gateway": bridge.get("Gateway", ""),
            "GlobalIPv6Address": bridge.get("GlobalIPv6Address", ""),
            "GlobalIPv6PrefixLen": bridge.get("GlobalIPv6PrefixLen", 0),
            "IPAddress": bridge.get("IPAddress", ""),
            "IPPrefixLen": bridge.get("IPPrefixLen", 0),
            "IPv6Gateway": bridge.get("IPv6Gateway", ""),
            "MacAddress": bridge.get("MacAddress", ""),
        }
        view.pop("Storage", None)
    else:
        view.pop("GraphDriver", None)
    return view


def summary(view: View, version: Version) -> View:
    """One entry of GET /containers/json."""
    if version < (1, 46):
        view["HostConfig"].pop("Annotations", None)
    if version < (1, 48):
        view.pop("ImageManifestDescriptor", None)
    if version < (1, 52):
        view.pop("Health", None)
    return view


# The lists of before API 1.52, and the summaries that have them as their items.
_USAGES = {
    "Images": "ImageUsage",
    "Containers": "ContainerUsage",
    "Volumes": "VolumeUsage",
    "BuildCache": "BuildCacheUsage",
}


def disk_usage(view: View, version: Version, *, verbose: bool) -> View:
    """GET /system/df: since API 1.52 summaries, and the lists besides unless `verbose` puts them into these."""
    if version < (1, 44) and "Images" in view:
        view["Images"] = [{**image, "VirtualSize": image["Size"]} for image in view["Images"]]
    for items, usage in _USAGES.items():
        if usage not in view:
            continue
        if version < (1, 52):
            del view[usage]
            continue
        summary = {**view[usage], "Items": view[items]}
        view[usage] = {name: value for name, value in summary.items() if value}
        if verbose:
            del view[items]
    if version >= (1, 52) and verbose:
        view.pop("LayersSize", None)
    return view


def create_request(body: CreateRequest, version: Version) -> list[str]:
    """POST /containers/create: what the client's API version did not know is ignored or refused, as by Docker.

    Returns warnings. Raises InvalidArgumentError.
    """
    host_config = body.host_config
    if version < (1, 40) and not host_config.ipc_mode:
        host_config.ipc_mode = "shareable"
    if version < (1, 41) and not host_config.cgroupns_mode:
        host_config.cgroupns_mode = "host"
    if version < (1, 43):
        host_config.annotations = {}
    if version < (1, 44) and body.healthcheck is not None:
        body.healthcheck.start_interval = 0
    if version >= (1, 52) and body.mac_address:
        raise InvalidArgumentError(
            "container-wide MAC address no longer supported; use endpoint-specific MAC address instead"
        )
    for mount in host_config.mounts:
        _mount(mount, version)
    _endpoints(body.networking_config.endpoints_config, version)
    _mac_addresses(body, version)
    if version < (1, 53):
        for port, bindings in host_config.port_bindings.items():
            host_config.port_bindings[port] = bindings or [PortBinding()]
    return _interface_sysctls(body, version)


def _interface_sysctls(body: CreateRequest, version: Version) -> list[str]:
    """`net.ipv4.conf.eth0.forwarding` is of an endpoint: from API 1.48 on it has to be said there, before it is
    moved there for the main network's eth0, with a warning."""
    sysctls = body.host_config.sysctls
    found = {name: match for name in sysctls if (match := _INTERFACE_SYSCTL.fullmatch(name))}
    mode = body.host_config.network_mode
    if not found or mode in ("host", "none") or mode.startswith("container:"):
        return []
    if version > (1, 47):
        raise InvalidArgumentError(
            f'interface specific sysctl setting "{next(iter(found))}" must be supplied using driver option '
            f"'{SYSCTLS}'"
        )
    settings = _main_endpoint(body, version)
    for name, match in found.items():
        if match["interface"] != "eth0":
            raise InvalidArgumentError(
                f"unable to determine network endpoint for sysctl {name}, use driver option '{SYSCTLS}' "
                "to set per-interface sysctls"
            )
    moved = ",".join(
        f"net.{match['family']}.{match['kind']}.IFNAME.{match['rest']}={sysctls.pop(name)}"
        for name, match in found.items()
    )
    # What the endpoint itself says comes last and wins.
    options = settings.driver_opts or {}
    said = options.get(SYSCTLS)
    settings.driver_opts = options | {SYSCTLS: f"{moved},{said}" if said else moved}
    names = ",".join(found)
    return [f'Migrated sysctl "{names}" to DriverOpts{{"{SYSCTLS}":"{moved}"}}.']


def _main_endpoint(body: CreateRequest, version: Version) -> EndpointSettings:
    """The settings of the network that `NetworkMode` names. Raises InvalidArgumentError where others are given."""
    endpoints, mode = body.networking_config.endpoints_config, body.host_config.network_mode
    if not endpoints:
        return endpoints.setdefault(mode if mode not in ("", "default") else "bridge", EndpointSettings())
    if version < (1, 44):
        return next(iter(endpoints.values()))
    for name in (mode, "bridge", "default") if mode in ("", "default", "bridge") else (mode,):
        if name in endpoints:
            return endpoints[name]
    raise InvalidArgumentError(
        "unable to find a network for the sysctls of an interface: HostConfig.NetworkMode must match the identity "
        "of a network in NetworkSettings.Networks"
    )


def _mac_addresses(body: CreateRequest, version: Version) -> None:
    """Before API 1.44 a container had one address, of its main network; endpoints had none of their own."""
    endpoints = body.networking_config.endpoints_config
    if version < (1, 44):
        for settings in endpoints.values():
            settings.mac_address = ""
    mode = body.host_config.network_mode
    main = endpoints.get("bridge" if mode in ("", "default") else mode) or endpoints.get("default")
    if body.mac_address and main is not None and main.mac_address not in ("", body.mac_address):
        raise InvalidArgumentError(
            "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or "
            "be left empty"
        )


def _mount(mount: Mount, version: Version) -> None:
    if version >= (1, 42):
        for name, options in (
            ("VolumeOptions", mount.volume_options),
            ("BindOptions", mount.bind_options),
            ("TmpfsOptions", mount.tmpfs_options),
        ):
            if options is not None and f"{mount.type.capitalize()}Options" != name:
                raise InvalidArgumentError(f'{name} must not be specified on mount type "{mount.type}"')
    bind = mount.bind_options
    if bind is not None:
        bind.non_recursive = bind.non_recursive and version >= (1, 40)
        bind.create_mountpoint = bind.create_mountpoint and version >= (1, 42)
        if version < (1, 44) and (bind.read_only_non_recursive or bind.read_only_force_recursive):
            raise InvalidArgumentError("BindOptions.ReadOnlyNonRecursive needs API v1.44 or newer")
    if mount.volume_options is not None and mount.volume_options.subpath and version < (1, 45):
        raise InvalidArgumentError("VolumeOptions.Subpath needs API v1.45 or newer")


def _endpoints(asked: dict[str, EndpointSettings], version: Version) -> None:
    if version < (1, 44) and len(asked) > 1:
        names = ", ".join(sorted(asked))
        raise InvalidArgumentError(f"Container cannot be created with multiple network endpoints: {names}")
    if version < (1, 48):
        for settings in asked.values():
            settings.gw_priority = 0
