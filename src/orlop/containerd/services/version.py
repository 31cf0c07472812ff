# SPDX-License-Identifier: Apache-2.0
"""The Version service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orlop.api.version_pb2 import VersionResponse
from orlop.api.version_pb2_grpc import VersionServicer

if TYPE_CHECKING:
    from google.protobuf.empty_pb2 import Empty


class VersionService(VersionServicer):
    """Answers the version."""

    def __init__(self, version: str, revision: str) -> None:
        self._answer = VersionResponse(version=version, revision=revision)

    def Version(self, request: Empty, context: Any) -> VersionResponse:
        """Version and revision of the daemon."""
        return self._answer
