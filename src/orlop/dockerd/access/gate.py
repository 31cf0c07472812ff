# SPDX-License-Identifier: Apache-2.0
"""Lets a request pass that the policy allows to whoever asks."""

import errno
import socket
import struct
from collections.abc import Callable

from orlop.dockerd.access import policy, rules
from orlop.dockerd.access.harmless import Owns, low_port, reaches_out
from orlop.dockerd.access.policy import Entry, Level, Viewer
from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.containers.registry import Registry
from orlop.dockerd.containers.update import UpdateRequest
from orlop.dockerd.network.service import NetworkService
from orlop.dockerd.volumes import VolumeService
from orlop.engine.types import CreateRequest, ExecConfig, VolumeCreateRequest
from orlop.errdefs import NotFoundError, PermissionDeniedError

_SO_PEERGROUPS = 59  # asm-generic/socket.h
_GID = struct.Struct("I")
_LONGEST = 1024
"""Bytes that Python takes from getsockopt(2)."""


class Gate:
    """`entries` is the policy as it is now; the rest tells whose a thing is."""

    def __init__(
        self,
        entries: Callable[[], list[Entry]],
        registry: Registry,
        volumes: VolumeService,
        networks: NetworkService,
    ) -> None:
        self._entries = entries
        self._guarded = bool(entries())
        """The sockets are open to everybody then: without a policy later on, only root passes."""
        self._registry = registry
        self._volumes = volumes
        self._networks = networks

    def viewer(self, connection: socket.socket | None) -> Viewer:
        """Who is at the other end. Without a policy, and by other ways than a unix socket, everybody is as root:
        there, TLS decides.
        """
        entries = self._entries()
        if not (entries or self._guarded) or connection is None or connection.family != socket.AF_UNIX:
            return policy.ROOT
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, gid = struct.unpack("3i", raw)
        return Viewer(uid, policy.level_of(uid, {gid, *_groups(connection)}, entries))

    async def check(self, route: Route, request: ApiRequest) -> None:
        """Raise PermissionDeniedError unless the one who asks may; NotFoundError for what is not theirs to see."""
        viewer = request.viewer
        if viewer.level is Level.ALL:
            return
        if viewer.level < rules.needed(route.method, route.path):
            raise PermissionDeniedError(
                f"user {viewer.uid} may not {route.method} {route.path}: socket-policy gives {_word(viewer.level)}"
            )
        if viewer.level is not Level.OWN:
            return
        kind = rules.must_own(route.method, route.path)
        if kind is None:
            raise PermissionDeniedError(
                f"user {viewer.uid} may not {route.method} {route.path}: it shows others' too"
            )
        if kind:
            self._require_own(kind, request)
        request.owned_only = f"{route.method} {route.path}" in rules.FILTERED
        await self._check_body(route, request)

    def _require_own(self, kind: str, request: ApiRequest) -> None:
        reference = request.params["name" if kind == "volume" else "id"]
        owns = self._owns(request.viewer)
        mine = {"container": owns.container, "exec": self._owns_exec(request.viewer), "volume": owns.volume}[kind]
        if not mine(reference):
            # Whether somebody else has such a thing is not theirs to know.
            raise NotFoundError(f"No such {kind}: {reference}")

    async def _check_body(self, route: Route, request: ApiRequest) -> None:
        if field := await self._harmful(route, request):
            raise PermissionDeniedError(
                f"{field}: user {request.viewer.uid} may only have containers that reach neither the host nor "
                "others (socket-policy: own)"
            )

    async def _harmful(self, route: Route, request: ApiRequest) -> str:
        """The field of the body that asks for too much; "" if there is none."""
        endpoint = f"{route.method} {route.path}"
        if endpoint == "POST /containers/create":
            body = await request.json(CreateRequest)
            networks = body.networking_config.endpoints_config
            return reaches_out(body.host_config, networks, self._owns(request.viewer))
        if endpoint == "POST /containers/{id}/exec":
            return "Privileged" if (await request.json(ExecConfig)).privileged else ""
        if endpoint == "POST /containers/{id}/update":
            update = await request.json(UpdateRequest)
            return "MountsAdd" if update.mounts_add else low_port(update.publish_add)
        if endpoint == "POST /volumes/create":
            volume = await request.json(VolumeCreateRequest)
            return "DriverOpts" if volume.driver_opts or volume.driver not in ("", "local") else ""
        return "fromSrc" if endpoint == "POST /images/create" and request.query("fromSrc") else ""

    def _owns(self, viewer: Viewer) -> Owns:
        def mine(labels: dict[str, str]) -> bool:
            return labels.get(policy.OWNER_LABEL) == viewer.owner

        def container(reference: str) -> bool:
            try:
                return mine(self._registry.get(reference).record.config.labels)
            except NotFoundError:
                return False

        def volume(name: str) -> bool:
            try:
                return mine(self._volumes.get(name).labels)
            except NotFoundError:
                return False

        def network(reference: str) -> bool:
            try:
                return mine(self._networks.find_network(reference)["Labels"])
            except NotFoundError:
                return False

        return Owns(container, volume, network)

    def _owns_exec(self, viewer: Viewer) -> Callable[[str], bool]:
        owns = self._owns(viewer)

        def mine(exec_id: str) -> bool:
            try:
                return owns.container(self._registry.exec(exec_id)[0].id)
            except NotFoundError:
                return False

        return mine


def _groups(connection: socket.socket) -> list[int]:
    """The supplementary groups of the peer, if it has no more than fit; unix(7) has SO_PEERGROUPS since 4.13."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _LONGEST)
    except OSError as error:
        if error.errno == errno.ERANGE:  # fewer groups, fewer rights
            return []
        raise
    return [gid for (gid,) in _GID.iter_unpack(raw)]


def _word(level: Level) -> str:
    return level.name.lower()
