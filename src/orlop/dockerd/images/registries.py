# SPDX-License-Identifier: Apache-2.0
"""Asks registries without pulling: `docker manifest inspect`'s part of the daemon, and `docker login`."""

from typing import Any

import msgspec

from orlop.errdefs import InvalidArgumentError
from orlop.oci import reference
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import Manifest, Platform, parse_document, parse_image
from orlop.registry import RegistryClient, RegistryConfig

HUB_ALIASES = ("", "https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")


class InspectDistribution:
    """What a registry has under a name, as the Engine API's DistributionInspect object."""

    def __init__(self, registries: RegistryConfig) -> None:
        self._registries = registries

    async def __call__(self, name: str, auth: AuthConfig | None = None) -> dict[str, Any]:
        """Raises InvalidArgumentError, NotFoundError, UnauthorizedError, UnavailableError."""
        wanted = reference.parse(name).canonical()
        async with RegistryClient(self._registries, auth) as registry:
            target = await registry.resolve(wanted)
            document = parse_document(await registry.document(wanted, target), target.media_type)
            platforms: list[Platform]
            if isinstance(document, Manifest):
                platforms = [parse_image(await registry.small_blob(wanted, document.config)).platform]
            else:
                platforms = [item.platform for item in document.manifests if item.platform]
        return {
            "Descriptor": msgspec.to_builtins(target),
            "Platforms": [msgspec.to_builtins(platform) for platform in platforms],
        }


class Login:
    """Tries credentials at a registry."""

    def __init__(self, registries: RegistryConfig) -> None:
        self._registries = registries

    async def __call__(self, auth: AuthConfig) -> dict[str, str]:
        """The Engine API's answer. Raises InvalidArgumentError, UnauthorizedError, UnavailableError."""
        address = auth.serveraddress
        domain = reference.DEFAULT_DOMAIN
        if address not in HUB_ALIASES:
            domain = address.removeprefix("https://").removeprefix("http://").partition("/")[0]
            if not reference.is_domain(domain):
                raise InvalidArgumentError(f"invalid serveraddress {address!r}: expected HOST[:PORT] or its URL")
        async with RegistryClient(self._registries, auth) as registry:
            await registry.login(domain)
        return {"Status": "Login Succeeded", "IdentityToken": ""}
