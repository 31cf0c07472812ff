# SPDX-License-Identifier: Apache-2.0
"""Named and anonymous volumes of the `local` driver, kept below /var/lib/orlop/volumes/<name>/_data."""

from orlop.dockerd.volumes.service import VolumeService
from orlop.dockerd.volumes.store import init_schema
from orlop.dockerd.volumes.volume import Volume

__all__ = ["Volume", "VolumeService", "init_schema"]
