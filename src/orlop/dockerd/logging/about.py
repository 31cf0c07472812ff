# SPDX-License-Identifier: Apache-2.0
"""What a log tells of its container beside the lines: the labels and variables asked for, and the tag."""

import re
import socket
from collections.abc import Callable, Mapping

from orlop.dockerd import timestamps
from orlop.dockerd.containers.model import ContainerRecord
from orlop.errdefs import InvalidArgumentError

DEFAULT_TAG = "{{.ID}}"
_SHORT = 12
_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}")


def command(record: ContainerRecord) -> str:
    """The command line of the container."""
    return " ".join((record.path, *record.args))


_FIELDS: Mapping[str, Callable[[ContainerRecord], str]] = {
    ".ID": lambda record: record.id[:_SHORT],
    ".FullID": lambda record: record.id,
    ".Name": lambda record: record.name,
    ".ImageID": lambda record: record.image_id.removeprefix("sha256:")[:_SHORT],
    ".ImageFullID": lambda record: record.image_id,
    ".ImageName": lambda record: record.config.image,
    ".Command": command,
    ".DaemonName": lambda record: "docker",
    ".Hostname": lambda record: socket.gethostname(),
    ".ContainerID": lambda record: record.id,
    ".ContainerName": lambda record: f"/{record.name}",
    ".ContainerImageID": lambda record: record.image_id,
    ".ContainerImageName": lambda record: record.config.image,
    ".ContainerCreated": lambda record: timestamps.rfc3339(record.created),
}


def tag(record: ContainerRecord, default: str = DEFAULT_TAG) -> str:
    """The option `tag`, with its fields filled in: `{{.Name}}` and its like. Raises InvalidArgumentError."""
    template = record.host_config.log_config.config.get("tag") or default

    def fill(action: re.Match[str]) -> str:
        field = _FIELDS.get(action[1])
        if field is None:
            raise InvalidArgumentError(f"tag: {action[0]} is none of {', '.join(sorted(_FIELDS))}")
        return field(record)

    return _ACTION.sub(fill, template)


def attributes(record: ContainerRecord, name: Callable[[str], str] = str) -> dict[str, str]:
    """The container's labels and variables that the options name; `name` changes each one's name."""
    options = record.host_config.log_config.config
    variables = dict(entry.partition("=")[::2] for entry in record.config.env if "=" in entry)
    found: dict[str, str] = {}
    for option, source in (("labels", record.config.labels), ("env", variables)):
        wanted = set(filter(None, options.get(option, "").split(",")))
        pattern = options.get(f"{option}-regex", "")
        for key, value in source.items():
            if key in wanted or (pattern and re.search(pattern, key)):
                found[name(key)] = value
    return found


def attributes_and_tag(record: ContainerRecord) -> dict[str, str]:
    """The same as entries of files carry them, where a tag is one only if it was asked for."""
    found = attributes(record)
    if record.host_config.log_config.config.get("tag"):
        found["tag"] = tag(record)
    return found
