# SPDX-License-Identifier: Apache-2.0
"""What the daemon tells of itself: GET /version and GET /info."""

import asyncio
import os
import platform
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from orlop import __version__
from orlop.containerd.client import Client
from orlop.dockerd import timestamps
from orlop.dockerd.api import version as api_version
from orlop.dockerd.config import Config
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.runtime_features import RuntimeFeatures
from orlop.dockerd.containers.runtimes import Runtimes
from orlop.dockerd.events import Events
from orlop.dockerd.listeners import open_tcp_warnings
from orlop.dockerd.logging.options import DRIVERS
from orlop.errdefs import OrlopError
from orlop.oci.cdi import Registry as DeviceRegistry

View = dict[str, Any]

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_VERSION_SECONDS = 2.0
_NO_SWARM: View = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}


class System:
    """Both use cases. `count_images` answers how many images there are."""

    def __init__(
        self,
        registry: Registry,
        events: Events,
        client: Client,
        runtimes: Runtimes,
        config: Config,
        identity: str,
        count_images: Callable[[], Awaitable[int]],
        volume_drivers: Callable[[], list[str]],
        network_drivers: Callable[[], list[str]],
        firewall: Callable[[], View],
    ) -> None:
        self._registry = registry
        self._events = events
        self._client = client
        self._runtimes = runtimes
        self._features = RuntimeFeatures()
        self._config = config
        self._identity = identity
        self._count_images = count_images
        self._volume_drivers = volume_drivers
        self._network_drivers = network_drivers
        self._firewall = firewall

    async def version(self) -> View:
        """GET /version. containerd's part is left out while containerd is away."""
        uname = os.uname()
        lowest = api_version.text(self._config.lowest_api_version)
        machine = _ARCHITECTURES.get(uname.machine, uname.machine)
        engine = {
            "ApiVersion": api_version.text(api_version.MAX),
            "Arch": machine,
            "Experimental": "true" if self._config.experimental else "false",
            "KernelVersion": uname.release,
            "MinAPIVersion": lowest,
            "Os": "linux",
            "PythonVersion": platform.python_version(),
        }
        number, revision = await self._containerd()
        containerd = {"GitCommit": revision} if revision else {}
        components: list[View] = [
            {"Name": "Engine", "Version": __version__, "Details": engine},
            {"Name": "containerd", "Version": number, "Details": containerd},
            {"Name": "orlop-runc", "Version": __version__, "Details": {}},
        ]
        view: View = {
            "Platform": {"Name": f"orlop {__version__}"},
            "Components": components,
            "Version": __version__,
            "ApiVersion": api_version.text(api_version.MAX),
            "MinAPIVersion": lowest,
            "GitCommit": "",
            "GoVersion": f"python{platform.python_version()}",
            "Os": "linux",
            "Arch": machine,
            "KernelVersion": uname.release,
            "BuildTime": "",
        }
        return view | ({"Experimental": True} if self._config.experimental else {})

    async def _containerd(self) -> tuple[str, str]:
        """Its version and revision."""
        try:
            found = await self._client.system.version(timeout=_VERSION_SECONDS)
        except OrlopError:
            return "not available", ""
        return found.version, found.revision

    async def info(self) -> View:
        """GET /info as of the latest API version."""
        try:
            images = await self._count_images()
        except OrlopError:
            images = 0  # containerd is away: the rest is still worth telling
        _, containerd = await self._containerd()
        states = [container.record.state for container in self._registry]
        return {
            "ID": self._identity,
            "Containers": len(states),
            "ContainersRunning": sum(state.running and not state.paused for state in states),
            "ContainersPaused": sum(state.paused for state in states),
            "ContainersStopped": sum(not state.running for state in states),
            "Images": images,
            "Driver": self._config.storage_driver,
            "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
            "Plugins": {
                "Volume": self._volume_drivers(),
                "Network": self._network_drivers(),
                "Authorization": self._config.authorization_plugins or None,
                "Log": list(DRIVERS),
            },
            **_host_facts(),
            **_cgroup_facts(),
            "Debug": self._config.debug,
            "NFd": len(os.listdir("/proc/self/fd")),
            "NGoroutines": 0,
            "SystemTime": timestamps.rfc3339(timestamps.now()),
            "LoggingDriver": self._config.log_driver,
            "CgroupDriver": "systemd" if self._config.systemd_cgroup else "cgroupfs",
            "NEventsListener": self._events.listeners,
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": self._registry_config(),
            "GenericResources": _generic_resources(self._config.node_generic_resources),
            "DockerRootDir": self._config.data_root,
            "Labels": self._config.labels,
            "ExperimentalBuild": self._config.experimental,
            "ServerVersion": __version__,
            "Runtimes": await self._runtimes_with_status(),
            "DefaultRuntime": self._runtimes.default,
            "Swarm": _NO_SWARM,
            "LiveRestoreEnabled": True,
            "Isolation": "",
            "InitBinary": self._config.init_path or "docker-init",
            "ContainerdCommit": {"ID": containerd or "N/A"},
            "RuncCommit": {"ID": f"orlop-{__version__}"},
            "InitCommit": {"ID": "N/A"},
            "SecurityOptions": [*_security_options(), *(["name=userns"] if self._config.userns_remap else [])],
            "FirewallBackend": self._firewall(),
            "CDISpecDirs": self._config.cdi_directories,
            "DiscoveredDevices": self._discovered(),
            "Containerd": {
                "Address": self._client.address,
                "Namespaces": {"Containers": self._client.namespace, "Plugins": ""},
            },
            "Warnings": open_tcp_warnings(self._config) or None,
            **self._address_pools(),
        }

    async def _runtimes_with_status(self) -> View:
        programs = self._runtimes.programs()
        found = await asyncio.gather(*map(self._features.status, programs.values()))
        status = {name: {"status": each} for name, each in zip(programs, found, strict=True) if each}
        return {name: {**entry, **status.get(name, {})} for name, entry in self._runtimes.names().items()}

    def _address_pools(self) -> View:
        pools = [{"Base": pool.base, "Size": pool.size} for pool in self._config.default_address_pools]
        return {"DefaultAddressPools": pools} if pools else {}

    def _discovered(self) -> list[View] | None:
        names = DeviceRegistry(self._config.cdi_directories).devices()
        return [{"Source": "cdi", "ID": name} for name in sorted(names)] or None

    def _registry_config(self) -> View:
        names = [name for name in self._config.insecure_registries if "/" not in name]
        cidrs = [name for name in self._config.insecure_registries if "/" in name]
        index = {"Name": "docker.io", "Mirrors": self._config.registry_mirrors, "Secure": True, "Official": True}
        others = {name: {"Name": name, "Mirrors": [], "Secure": False, "Official": False} for name in names}
        return {
            "InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128", *cidrs],
            "IndexConfigs": {"docker.io": index, **others},
            "Mirrors": self._config.registry_mirrors,
        }


def _generic_resources(given: list[str]) -> list[View] | None:
    resources = []
    for entry in given:
        kind, _, value = entry.partition("=")
        named = {"NamedResourceSpec": {"Kind": kind, "Value": value}}
        counted = {"DiscreteResourceSpec": {"Kind": kind, "Value": int(value)}} if value.isdecimal() else None
        resources.append(counted or named)
    return resources or None


def _host_facts() -> View:
    uname = os.uname()
    return {
        "IPv4Forwarding": _read("/proc/sys/net/ipv4/ip_forward") == "1",
        "KernelVersion": uname.release,
        "OperatingSystem": _os_release("PRETTY_NAME") or "Linux",
        "OSVersion": _os_release("VERSION_ID"),
        "OSType": "linux",
        "Architecture": uname.machine,
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "HttpProxy": os.environ.get("HTTP_PROXY", ""),
        "HttpsProxy": os.environ.get("HTTPS_PROXY", ""),
        "NoProxy": os.environ.get("NO_PROXY", ""),
        "Name": uname.nodename,
    }


def _cgroup_facts() -> View:
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    if unified.exists():
        controllers = set(unified.read_text().split())
        memory, swap = "memory" in controllers, "memory" in controllers
        cpu, cpuset, pids, oom = "cpu" in controllers, "cpuset" in controllers, "pids" in controllers, False
    else:
        lines = (_read("/proc/cgroups") or "").splitlines()[1:]
        controllers = {line.split()[0] for line in lines if line.split()[-1] == "1"}
        memory, cpu = "memory" in controllers, "cpu" in controllers
        cpuset, pids, oom = "cpuset" in controllers, "pids" in controllers, memory
        swap = Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
    return {
        "MemoryLimit": memory,
        "SwapLimit": swap,
        "CpuCfsPeriod": cpu,
        "CpuCfsQuota": cpu,
        "CPUShares": cpu,
        "CPUSet": cpuset,
        "PidsLimit": pids,
        "OomKillDisable": oom,
        "CgroupVersion": "2" if unified.exists() else "1",
    }


def _security_options() -> list[str]:
    options = []
    if Path("/sys/kernel/security/apparmor/profiles").exists():
        options.append("name=apparmor")
    if Path("/proc/sys/kernel/seccomp/actions_avail").exists():
        options.append("name=seccomp,profile=builtin")
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        options.append("name=cgroupns")
    return options


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _os_release(key: str) -> str:
    try:
        return platform.freedesktop_os_release().get(key, "")
    except OSError:
        return ""
