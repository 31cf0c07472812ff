# SPDX-License-Identifier: Apache-2.0
"""Where and how the log of a container is written on this machine: a pure function of its record."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from orlop.dockerd.containers.model import ContainerRecord
from orlop.dockerd.logging.about import attributes_and_tag
from orlop.dockerd.logging.forms import JSON, LOCAL, Form
from orlop.dockerd.logging.options import Rotation, rotation, sends_away
from orlop.rpc.logentry import encode_attrs

_UNSENT = 1000
"""Files that may wait for a collector before the oldest lines are given up."""


class Place(NamedTuple):
    """A log on disk. `scheme` and `attrs` are for the shim that writes it."""

    path: str
    form: Form
    scheme: str
    rotation: Rotation
    attrs: str


def place(record: ContainerRecord, directory: Path) -> Place | None:
    """The log of a container whose files are in `directory`; None with the driver `none`."""
    config = record.host_config.log_config
    if config.type == "json-file":
        about = attributes_and_tag(record)
        attrs = msgspec.json.encode(about, order="deterministic").decode() if about else ""
        return Place(record.log_path, JSON, "json-file", rotation(config), attrs)
    if config.type == "local":
        path = str(directory / "local-logs" / "container.log")
        return Place(path, LOCAL, "local", rotation(config), encode_attrs(attributes_and_tag(record)).hex())
    if not sends_away(config):
        return None
    kept = rotation(config)
    if config.config.get("mode") != "non-blocking":
        # What is not sent yet is not thrown away: dockerd removes old files when it has sent them.
        kept = kept._replace(files=_UNSENT)
    path = str(directory / "container-cached.log")
    return Place(path, JSON, "json-file", kept._replace(compress=False), "")
