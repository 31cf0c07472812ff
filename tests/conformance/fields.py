# SPDX-License-Identifier: Apache-2.0
"""Tell which fields of Docker's API description orlopd's answers do not have.

The argument is a table of them (tab-separated: definition, field, and more columns that are not read), as it can
be made of moby's swagger.yaml. A stack is started, one object of each kind is made with as much as it can have,
and the answers of the latest API version are looked through. What is left out by the API's rules where it is
empty is printed too, so the list is to be read by a person. Definitions of swarm, managed plugins and the builder
are passed over.
"""

from __future__ import annotations

import csv
import json
import sys
import threading
from typing import TYPE_CHECKING, Any

from support import images
from support.stack import Stack

from orlop.engine.client import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTAINER = {
    "Image": "multi",
    "Cmd": ["sh", "-c", "echo out; sleep 1000"],
    "Healthcheck": {
        "Test": ["CMD", "true"],
        "Interval": 1_000_000_000,
        "Timeout": 10**9,
        "StartPeriod": 10**9,
        "StartInterval": 10**9,
    },
    "Labels": {"a": "b"},
    "ExposedPorts": {"80/tcp": {}},
    "StopSignal": "SIGINT",
    "StopTimeout": 3,
    "Shell": ["sh"],
    "HostConfig": {
        "Memory": 64 << 20,
        "PortBindings": {"80/tcp": [{"HostPort": "8080"}]},
        "NetworkMode": "net",
        "Mounts": [{"Type": "volume", "Source": "vol", "Target": "/v"}],
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
        "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 100}],
        "Sysctls": {"net.ipv4.ip_forward": "1"},
        "Tmpfs": {"/t": "size=1m"},
        "Annotations": {"a": "b"},
        "Init": False,
    },
    "NetworkingConfig": {
        "EndpointsConfig": {
            "net": {"IPAMConfig": {"IPv4Address": "10.77.0.9"}, "Aliases": ["x"], "DriverOpts": {"a": "b"}}
        }
    },
}
_NETWORK = {
    "Name": "net",
    "IPAM": {"Config": [{"Subnet": "10.77.0.0/24", "Gateway": "10.77.0.1", "IPRange": "10.77.0.0/25"}]},
    "Labels": {"a": "b"},
    "Options": {"com.docker.network.bridge.name": "odfields0"},
}


def answers(stack: Stack) -> dict[str, Any]:
    """An answer for each kind of request."""
    client = Client(stack.host)
    found: dict[str, Any] = {"events": []}
    listening = threading.Thread(target=_events, args=(stack.host, found["events"]), daemon=True)
    listening.start()
    found["network/create"] = client.post("/networks/create", None, _NETWORK)
    found["volume"] = client.post("/volumes/create", None, {"Name": "vol", "Labels": {"a": "b"}})
    found["create"] = client.post("/containers/create", {"name": "container"}, _CONTAINER)
    client.post("/containers/container/start")
    listening.join(60)
    exec_id = client.post("/containers/container/exec", None, {"Cmd": ["true"], "AttachStdout": True})["Id"]
    client.post(f"/exec/{exec_id}/start", None, {"Detach": True})
    checking = client.stream("GET", "/events", {"since": 1, "filters": '{"event":["health_status: healthy"]}'})
    next(checking.lines())
    for name, path in {
        "info": "/info", "version": "/version", "container": "/containers/container/json?size=1",
        "list": "/containers/json?size=1", "stats": "/containers/container/stats?stream=0",
        "top": "/containers/container/top", "image": "/images/multi/json?manifests=1",
        "images": "/images/json?manifests=1&shared-size=1", "history": "/images/multi/history",
        "network": "/networks/net", "networks": "/networks", "volumes": "/volumes", "df": "/system/df?verbose=1",
        "changes": "/containers/container/changes", "exec": f"/exec/{exec_id}/json",
    }.items():  # fmt: skip
        found[name] = client.get(path)
    found["update"] = client.post("/containers/container/update", None, {"CpuShares": 512})
    client.post("/containers/container/kill")
    found["wait"] = client.post("/containers/container/wait")
    client.delete("/containers/container")
    found["removed"] = client.delete("/images/multi")
    client.close()
    return found


def _events(host: str, into: list[Any]) -> None:
    client = Client(host)
    for line in client.stream("GET", "/events").lines():
        into.append(json.loads(line))
        if into[-1].get("Action") == "start":
            return


_WHERE = {
    "SystemInfo": "info", "SystemVersion": "version", "PluginsInfo": "info.Plugins",
    "RegistryServiceConfig": "info.RegistryConfig", "IndexInfo": "info.RegistryConfig.IndexConfigs.*",
    "ContainerdInfo": "info.Containerd", "FirewallInfo": "info.FirewallBackend", "Commit": "info.RuncCommit",
    "Runtime": "info.Runtimes.*", "NRIInfo": "info.NRI", "DeviceInfo": "info.DiscoveredDevices.*",
    "ContainerInspectResponse": "container", "ContainerState": "container.State",
    "Health": "container.State.Health",
    "HealthcheckResult": "container.State.Health.Log.*", "HostConfig": "container.HostConfig",
    "Resources": "container.HostConfig", "ContainerConfig": "container.Config",
    "HealthConfig": "container.Config.Healthcheck", "MountPoint": "container.Mounts.*",
    "NetworkSettings": "container.NetworkSettings", "EndpointSettings": "container.NetworkSettings.Networks.*",
    "EndpointIPAMConfig": "container.NetworkSettings.Networks.*.IPAMConfig",
    "RestartPolicy": "container.HostConfig.RestartPolicy", "Storage": "container.Storage",
    "RootFSStorage": "container.Storage.RootFS", "RootFSStorageSnapshot": "container.Storage.RootFS.Snapshot",
    "ContainerSummary": "list.*", "PortSummary": "list.*.Ports.*",
    "ContainerStatsResponse": "stats", "ContainerCPUStats": "stats.cpu_stats",
    "ContainerCPUUsage": "stats.cpu_stats.cpu_usage", "ContainerThrottlingData": "stats.cpu_stats.throttling_data",
    "ContainerMemoryStats": "stats.memory_stats", "ContainerBlkioStats": "stats.blkio_stats",
    "ContainerPidsStats": "stats.pids_stats", "ContainerNetworkStats": "stats.networks.*",
    "ContainerTopResponse": "top", "ContainerWaitResponse": "wait", "ContainerCreateResponse": "create",
    "ContainerUpdateResponse": "update", "ImageInspect": "image", "ImageConfig": "image.Config",
    "ImageManifestSummary": "image.Manifests.*", "Identity": "image.Identity", "OCIDescriptor": "image.Descriptor",
    "ImageSummary": "images.*", "ImageHistoryResponseItem": "history.*", "ImageDeleteResponseItem": "removed.*",
    "Network": "network", "NetworkInspect": "network", "NetworkSummary": "networks.*", "IPAM": "network.IPAM",
    "IPAMConfig": "network.IPAM.Config.*", "EndpointResource": "network.Containers.*",
    "NetworkStatus": "network.Status", "IPAMStatus": "network.Status.IPAM",
    "SubnetStatus": "network.Status.IPAM.Subnets.*", "ConfigReference": "network.ConfigFrom",
    "NetworkCreateResponse": "network/create", "Volume": "volume", "VolumeListResponse": "volumes",
    "ImagesDiskUsage": "df.ImageUsage", "ContainersDiskUsage": "df.ContainerUsage",
    "VolumesDiskUsage": "df.VolumeUsage",
    "FilesystemChange": "changes.*", "ProcessConfig": "exec.ProcessConfig", "EventMessage": "events.*",
    "EventActor": "events.*.Actor",
}  # fmt: skip
"""Where in the answers the objects of a definition are; `*`: any member of a list or of a map."""


def objects(value: Any, path: list[str]) -> Iterator[Any]:
    """The objects at a path."""
    if not path:
        yield value
    elif path[0] == "*":
        for inner in value.values() if isinstance(value, dict) else value or []:
            yield from objects(inner, path[1:])
    elif isinstance(value, dict) and path[0] in value:
        yield from objects(value[path[0]], path[1:])


def main() -> int:
    """Run the command line."""
    if len(sys.argv) != 2:
        print("usage: tests/conformance/run-fields TABLE", file=sys.stderr)
        return 2
    with open(sys.argv[1], encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    with Stack() as stack:
        stack.docker("load", "-i", str(images.archive("multi"))).ok()
        found = answers(stack)
    checked = 0
    for row in rows:
        where = _WHERE.get(row["definition"])
        if where is None or "<allOf>" in row["field"]:
            continue
        checked += 1
        *inner, field = row["field"].replace("[]", ".*").split(".")
        below = objects(found, [*where.split("."), *inner])
        if not any(isinstance(each, dict) and field in each for each in below):
            print(f"absent\t{row['definition']}\t{row['field']}")
    passed = sorted({row["definition"] for row in rows} - _WHERE.keys())
    print(f"{checked} fields looked for; definitions passed over: {', '.join(passed)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
