# SPDX-License-Identifier: Apache-2.0
"""The client of OCI registries (distribution specification 1.1, Docker Registry HTTP API V2).

async with RegistryClient(RegistryConfig(), auth) as client:
    target = await client.resolve(reference)
    raw = await client.document(reference, target)
    async for data in client.blob(reference, layer): ...
"""

from orlop.registry.client import RegistryClient
from orlop.registry.config import HOSTS_DIRS, RegistryConfig

__all__ = ["HOSTS_DIRS", "RegistryClient", "RegistryConfig"]
