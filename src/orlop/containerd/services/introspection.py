# SPDX-License-Identifier: Apache-2.0
"""The Introspection service: what the daemon is made of."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from orlop.api import introspection_pb2 as pb
from orlop.api.introspection_pb2_grpc import IntrospectionServicer
from orlop.api.types_pb2 import RuntimeInfo, RuntimeRequest
from orlop.containerd.client import typeurl
from orlop.containerd.core import filters
from orlop.errdefs import NotFoundError, NotImplementedByUsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from google.protobuf.empty_pb2 import Empty

    from orlop.containerd.plugins_table import Plugin


class IntrospectionService(IntrospectionServicer):
    """Answers from the plugin table."""

    def __init__(
        self,
        uuid: str,
        plugins: Sequence[Plugin],
        runtime_info: Callable[[RuntimeRequest], Awaitable[RuntimeInfo]],
    ) -> None:
        self._uuid = uuid
        self._plugins = plugins
        self._runtime_info = runtime_info

    def Plugins(self, request: pb.PluginsRequest, context: Any) -> pb.PluginsResponse:
        """The plugins that match any of the filters."""
        accept = filters.parse_all(request.filters)
        found = [plugin.to_proto() for plugin in self._plugins if accept(_adaptor(plugin))]
        return pb.PluginsResponse(plugins=found)

    def Server(self, request: Empty, context: Any) -> pb.ServerResponse:
        """The identity of the daemon. The uuid is kept over restarts."""
        return pb.ServerResponse(uuid=self._uuid, pid=os.getpid(), pidns=os.stat("/proc/self/ns/pid").st_ino)

    async def PluginInfo(self, request: pb.PluginInfoRequest, context: Any) -> pb.PluginInfoResponse:
        """One plugin; the task manager also tells of a runtime (options: a RuntimeRequest)."""
        for plugin in self._plugins:
            if (plugin.type, plugin.id) == (request.type, request.id):
                break
        else:
            raise NotFoundError(f"plugin {request.type}.{request.id} not found")
        answer = pb.PluginInfoResponse(plugin=plugin.to_proto())
        if request.HasField("options"):
            if plugin.type != "io.containerd.runtime.v2" or plugin.id != "task":
                raise NotImplementedByUsError(f"plugin {request.type}.{request.id} takes no options")
            info = await self._runtime_info(typeurl.unpack(request.options, RuntimeRequest))
            answer.extra.CopyFrom(typeurl.pack(info))
        return answer


def _adaptor(plugin: Plugin) -> filters.Adaptor:
    return filters.adapt(
        {"type": plugin.type, "id": plugin.id, "capabilities": ",".join(plugin.capabilities) or None},
        {"exports": plugin.exports},
    )
