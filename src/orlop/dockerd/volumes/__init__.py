# SPDX-License-Identifier: Apache-2.0
"""Named and anonymous volumes of the `local` driver, kept below /var/lib/orlop/volumes/<name>/_data."""

from orlop.dockerd.volumes.service import Volume, VolumeService
from orlop.dockerd.volumes.store import init_schema

__all__ = ["Volume", "VolumeService", "init_schema"]
