# SPDX-License-Identifier: Apache-2.0
"""The namespaces of a container's specification, and the sysctls that go with them."""

from orlop.dockerd.spec.modes import private_network
from orlop.dockerd.spec.request import SpecRequest
from orlop.errdefs import InvalidArgumentError
from orlop.oci.runtime import Namespace


def namespaces(request: SpecRequest) -> list[Namespace]:
    """In Docker's order. Raises InvalidArgumentError where a namespace is to be joined and has no path."""
    config = request.host_config
    found = [Namespace(type="mount")]
    if request.config.network_disabled:
        found.append(Namespace(type="network"))
    elif config.network_mode != "host":
        found.append(Namespace(type="network", path=request.network_namespace_path))
    if config.uts_mode != "host":
        found.append(Namespace(type="uts"))
    if config.pid_mode != "host":
        found.append(_joined("pid", config.pid_mode, request.pid_namespace_path))
    if config.ipc_mode != "host":
        found.append(_joined("ipc", config.ipc_mode, request.ipc_namespace_path))
    if config.cgroupns_mode == "private" and request.host.cgroup_namespaces:
        found.append(Namespace(type="cgroup"))
    if request.time_namespace:
        found.append(Namespace(type="time"))
    return found


def sysctls(request: SpecRequest) -> dict[str, str]:
    """The container's own, over those that let it ping and bind low ports without capabilities."""
    config, host = request.host_config, request.host
    values: dict[str, str] = {}
    if private_network(config.network_mode):
        if host.ping_group_range:
            values["net.ipv4.ping_group_range"] = "0 2147483647"
        if host.unprivileged_port_start:
            values["net.ipv4.ip_unprivileged_port_start"] = "0"
    if request.config.domainname and config.uts_mode != "host":
        # The NIS domain name: setdomainname(2) by another way, as the specification once had no field for it.
        values["kernel.domainname"] = request.config.domainname
    return values | config.sysctls


def _joined(kind: str, mode: str, path: str) -> Namespace:
    if mode.startswith("container:") and not path:
        raise InvalidArgumentError(f"{kind} mode {mode!r}: no path of the namespace to join")
    return Namespace(type=kind, path=path if mode.startswith("container:") else "")
