# SPDX-License-Identifier: Apache-2.0
"""Networks of containers: namespaces, bridges, addresses, published ports, resolv.conf and hosts."""

from orlop.dockerd.network.service import NetworkService
from orlop.dockerd.network.store import init_schema
from orlop.dockerd.network.types import NetworkConfig, Sandbox, SandboxRequest

__all__ = ["NetworkConfig", "NetworkService", "Sandbox", "SandboxRequest", "init_schema"]
