# SPDX-License-Identifier: Apache-2.0
"""The modes of namespaces: host, private, `container:<id>` and the like."""


def container_of(mode: str) -> str | None:
    """The container that a mode `container:<id or name>` refers to; None for another mode."""
    kind, colon, name = mode.partition(":")
    return name if kind == "container" and colon else None


def valid_ipc(mode: str) -> bool:
    return mode in ("", "none", "private", "host", "shareable") or container_of(mode) is not None


def valid_pid(mode: str) -> bool:
    return mode in ("", "host") or bool(container_of(mode))


def private_network(mode: str) -> bool:
    """Whether the container has a network namespace of its own."""
    return mode != "host" and container_of(mode) is None
