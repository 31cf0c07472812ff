# SPDX-License-Identifier: Apache-2.0
"""The registry of a transfer: its reference, how to reach it, and the credentials that the client is asked for."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from orlop.api import transfer_types_pb2 as pb
from orlop.containerd.client import typeurl
from orlop.containerd.plugins.transfer.request_log import RequestLog
from orlop.errdefs import DeadlineExceededError, InvalidArgumentError, NotImplementedByUsError, UnavailableError
from orlop.oci import reference as references
from orlop.oci.distribution import AuthConfig
from orlop.registry import HOSTS_DIRS, RegistryConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orlop.containerd.client.streams import Stream
    from orlop.containerd.core.streams import StreamGetter
    from orlop.oci.reference import Reference

CREDENTIALS_TIMEOUT = 60.0  # seconds; a person may have to type them


class RegistryEndpoint(NamedTuple):
    """Where images come from or go to."""

    reference: Reference
    config: RegistryConfig
    auth: AuthConfig | None

    def __str__(self) -> str:
        return f"OCI Registry ({self.reference})"


@asynccontextmanager
async def registry_endpoint(
    message: pb.OCIRegistry, streams: StreamGetter, namespace: str
) -> AsyncIterator[RegistryEndpoint]:
    """What a client's message asks for; at the end of the block all that it wants to be told is sent.

    Raises InvalidArgumentError for a malformed reference, NotFoundError for a stream that is not open,
    NotImplementedByUsError for what we cannot do, and what `_ask` raises.
    """
    reference = references.parse(message.reference).canonical()
    resolver = message.resolver
    if resolver.default_scheme not in ("", "http", "https"):
        raise InvalidArgumentError(
            f"resolver.default_scheme: expected http or https, got {resolver.default_scheme}"
        )
    insecure = [reference.domain] if resolver.default_scheme == "http" else []
    auth = None
    if resolver.auth_stream:
        auth = await _ask(streams.get(namespace, resolver.auth_stream), message.reference, reference.domain)
    config = RegistryConfig(
        insecure=insecure,
        hosts_dirs=[resolver.host_dir] if resolver.host_dir else HOSTS_DIRS,
        headers=list(resolver.headers.items()),
    )
    if not resolver.http_debug:
        yield RegistryEndpoint(reference, config, auth)
        return
    log = RequestLog(streams.get(namespace, resolver.logs_stream) if resolver.logs_stream else None)
    if resolver.http_debug in (pb.DEBUG, pb.BOTH):
        config.dump = log.say
    if resolver.http_debug in (pb.TRACE, pb.BOTH):
        config.trace = log.say
    try:
        yield RegistryEndpoint(reference, config, auth)
    finally:
        await log.finish()


async def _ask(stream: Stream, reference: str, domain: str) -> AuthConfig | None:
    """Ask the client for credentials. Raises UnavailableError when it has gone, DeadlineExceededError."""
    host = "registry-1.docker.io" if domain == references.DEFAULT_DOMAIN else domain
    await stream.send(typeurl.pack(pb.AuthRequest(host=host, reference=reference)))
    try:
        answer = await asyncio.wait_for(stream.receive(), CREDENTIALS_TIMEOUT)
    except TimeoutError:
        raise DeadlineExceededError(f"no credentials for {host} within {CREDENTIALS_TIMEOUT:g} s") from None
    if answer is None:
        raise UnavailableError(f"the client has gone before it gave credentials for {host}")
    return auth_config(typeurl.unpack(answer, pb.AuthResponse), domain)


def auth_config(answer: pb.AuthResponse, domain: str) -> AuthConfig | None:
    """A client's credentials; None where it has none."""
    if not answer.secret or answer.authType == pb.NONE:
        return None
    if answer.authType == pb.CREDENTIALS:
        return AuthConfig(username=answer.username, password=answer.secret, serveraddress=domain)
    if answer.authType == pb.REFRESH:
        return AuthConfig(identitytoken=answer.secret, serveraddress=domain)
    scheme, _, value = answer.secret.partition(" ")
    if scheme.lower() == "bearer":
        return AuthConfig(registrytoken=value, serveraddress=domain)
    if scheme.lower() == "basic":
        return AuthConfig(auth=value, serveraddress=domain)
    raise NotImplementedByUsError("credentials as a header that is neither Bearer nor Basic")
