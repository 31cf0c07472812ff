# SPDX-License-Identifier: Apache-2.0
"""What older API versions saw differently: pure functions from the latest form of an answer to theirs."""

from typing import Any

from orlop.dockerd.api.version import Version

View = dict[str, Any]


def info(view: View, version: Version) -> View:
    """GET /info."""
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
