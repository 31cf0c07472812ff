# SPDX-License-Identifier: Apache-2.0
"""Containers in user namespaces (`userns-remap`): what their start, their files and their checks have of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from orlop.api.types_pb2 import Mount
from orlop.dockerd import userns
from orlop.dockerd.network.netns import set_sysctls
from orlop.dockerd.userns import Remap
from orlop.engine.types import HostConfig
from orlop.errdefs import InvalidArgumentError
from orlop.oci.runtime import IDMapping, Linux, Namespace, Spec

_NETWORK = "cannot share the host's network namespace when user namespaces are enabled"
_RUNTIME = "userns-remap: only the runtime orlop can run containers in user namespaces"

Shift = Callable[[int, int], tuple[int, int]]
"""User and group for a user and group."""


class OwnNamespaces(NamedTuple):
    """Paths, empty where there is none."""

    user: str = ""
    network: str = ""


class Remapping:
    """`remap` None: containers have the host's ids, and nothing here does anything."""

    def __init__(self, remap: Remap | None) -> None:
        self.remap = remap

    @property
    def owner(self) -> tuple[int, int]:
        """Whose files made for containers are."""
        return self.remap.root if self.remap else (0, 0)

    def of(self, host_config: HostConfig) -> Remap | None:
        """The mapping of a container; None: it has the host's ids."""
        return self.remap if self._applies(host_config) else None

    def check(self, host_config: HostConfig) -> None:
        """What cannot be shared with the host from a user namespace. Raises InvalidArgumentError."""
        if not self._applies(host_config):
            return
        if host_config.privileged:
            raise InvalidArgumentError(
                "privileged mode is incompatible with user namespaces.  You must run the container in the host "
                "namespace when running privileged mode"
            )
        if host_config.network_mode == "host":
            raise InvalidArgumentError(
                "cannot share the host's network namespace when user namespaces are enabled"
            )
        if host_config.pid_mode == "host":
            raise InvalidArgumentError("cannot share the host PID namespace when user namespaces are enabled")

    def inside(self, host_config: HostConfig) -> Shift | None:
        """The container's ids for the host's; None: the same."""
        return self.remap.inside if self.remap and self._applies(host_config) else None

    def outside(self, host_config: HostConfig) -> Shift | None:
        """The host's ids for the container's; None: the same."""
        return self.remap.outside if self.remap and self._applies(host_config) else None

    def mounts(self, host_config: HostConfig, mounts: Sequence[Mount], *, ours: bool) -> Sequence[Mount]:
        """The root filesystem, its layers shown with the containers' ids. Raises InvalidArgumentError."""
        if self.remap is None or not self._applies(host_config):
            return mounts
        if not ours:
            raise InvalidArgumentError(
                "userns-remap: only the runtime orlop can run containers in user namespaces"
            )
        maps = [f"uidmap={_text(self.remap.uids)}", f"gidmap={_text(self.remap.gids)}"]
        return [
            Mount(type=one.type, source=one.source, target=one.target, options=[*one.options, *maps])
            for one in mounts
        ]

    @asynccontextmanager
    async def namespaces(self, host_config: HostConfig, shared: str) -> AsyncIterator[OwnNamespaces]:
        """New namespaces for a container, there until the end of the block; none for one that shares a network.

        Its network namespace belongs to its user namespace, so that its root may do in there what its capabilities
        say. That is the one at the path `shared` if it is not empty: of a container that it shares others with.
        Raises InternalError.
        """
        if self.remap is None or not self._applies(host_config) or _is_shared(host_config.network_mode):
            yield OwnNamespaces()
            return
        made = userns.within(shared, "--net") if shared else userns.namespace(self.remap, "--net")
        pid = await asyncio.to_thread(made.__enter__)
        try:
            yield OwnNamespaces(f"/proc/{pid}/ns/user", f"/proc/{pid}/ns/net")
        finally:
            await asyncio.to_thread(made.__exit__, None, None, None)

    async def apply(self, spec: Spec, host_config: HostConfig, netns: str, joined: str) -> None:
        """Put a container into a user namespace: the one at the path `joined`, or one of its own.

        Its network namespace was made by the daemon, so the settings in there are made by the daemon, too.
        """
        if self.remap is None or not self._applies(host_config):
            return
        linux = spec.linux
        assert isinstance(linux, Linux)
        linux.namespaces.append(Namespace(type="user", path=joined))
        linux.uid_mappings, linux.gid_mappings = self.remap.uids, self.remap.gids
        network = {key: value for key, value in linux.sysctl.items() if key.startswith("net.")}
        linux.sysctl = {key: value for key, value in linux.sysctl.items() if key not in network}
        if network and netns:
            await asyncio.to_thread(set_sysctls, netns, network)

    def _applies(self, host_config: HostConfig) -> bool:
        return self.remap is not None and host_config.userns_mode != "host"


def _is_shared(mode: str) -> bool:
    return mode.startswith("container:")


def joined_namespace(*paths: str) -> str:
    """The user namespace of the process whose other namespace is joined by one of these paths; empty: none is."""
    for path in filter(None, paths):
        return f"{path.rpartition('/')[0]}/user"
    return ""


def _text(mappings: Sequence[IDMapping]) -> str:
    return ",".join(f"{one.container_id}:{one.host_id}:{one.size}" for one in mappings)
