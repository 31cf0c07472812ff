# SPDX-License-Identifier: Apache-2.0
"""The OCI process of an exec out of the container's own: pure."""

import msgspec

from orlop.dockerd.containers.model import ContainerRecord, ExecRecord
from orlop.oci.runtime import Box, Capabilities, Process, User


def exec_process(
    base: Process, container: ContainerRecord, record: ExecRecord, user: User, capabilities: tuple[str, ...]
) -> Process:
    """The container's process with the exec's command, environment, directory, terminal and user.

    `capabilities` are the kernel's, which a privileged exec gets.
    """
    process = msgspec.structs.replace(
        base,
        args=record.args,
        env=_environment(base, container, record),
        cwd=record.working_dir or container.config.working_dir or "/",
        terminal=record.tty,
        user=user,
        console_size=None,
    )
    if record.tty and record.console_size and any(record.console_size):
        process.console_size = Box(height=record.console_size[0], width=record.console_size[1])
    if record.privileged:
        names = list(capabilities)
        process.capabilities = Capabilities(bounding=names, permitted=names, effective=names)
    elif user.uid != 0 and process.capabilities is not None:
        # As for a container's process: what is not ambient does not survive the change to another user.
        process.capabilities = msgspec.structs.replace(process.capabilities, effective=[], permitted=[])
    return process


def _environment(base: Process, container: ContainerRecord, record: ExecRecord) -> list[str]:
    entries: dict[str, str] = {}
    for entry in base.env:
        entries[entry.partition("=")[0]] = entry
    if record.tty and "TERM" not in entries:
        entries["TERM"] = "TERM=xterm"
    if container.config.tty and not record.tty and "TERM=xterm" not in container.config.env:
        entries.pop("TERM", None)
    for entry in record.env:
        name, equals, _ = entry.partition("=")
        if equals:
            entries[name] = entry
        else:
            entries.pop(name, None)  # as with Docker: a bare name takes the variable away
    return list(entries.values())
