# SPDX-License-Identifier: Apache-2.0
"""The process of a container's specification: arguments, environment, limits."""

from collections.abc import Sequence

from orlop.engine.types import ContainerConfig, Ulimit
from orlop.errdefs import InvalidArgumentError
from orlop.oci.defaults import DEFAULT_PATH
from orlop.oci.runtime import Box, Rlimit


def command_line(config: ContainerConfig) -> list[str]:
    """Entrypoint and command as one argument vector. Raises InvalidArgumentError `no command specified`."""
    arguments = _words(config.entrypoint) + _words(config.cmd)
    if not arguments:
        raise InvalidArgumentError("no command specified")
    return arguments


def environment(config: ContainerConfig, hostname: str, links: Sequence[str] = ()) -> list[str]:
    """PATH, HOSTNAME, TERM with a terminal, links; overridden and extended by the configuration's.

    An entry without `=` takes the variable away.
    """
    variables = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={hostname}"]
    if config.tty:
        variables.append("TERM=xterm")
    return merge_environment([*variables, *links], config.env)


def merge_environment(base: Sequence[str], changes: Sequence[str]) -> list[str]:
    """`base` with each change in its variable's place, or at the end."""
    merged: dict[str, str | None] = {entry.partition("=")[0]: entry for entry in base}
    # Only what base has can be overridden or taken away: what is given twice stays twice, as in Docker.
    extra = []
    for entry in changes:
        name, equals, _ = entry.partition("=")
        if name in merged:
            merged[name] = entry if equals else None
        elif equals:
            extra.append(entry)
    return [entry for entry in merged.values() if entry is not None] + extra


def rlimits(own: Sequence[Ulimit], defaults: Sequence[Ulimit]) -> list[Rlimit]:
    """The container's ulimits, and the daemon's for what it does not set."""
    names = {limit.name for limit in own}
    limits = [*own, *(limit for limit in defaults if limit.name not in names)]
    return [
        Rlimit(type=f"RLIMIT_{limit.name.upper()}", soft=_limit(limit.soft), hard=_limit(limit.hard))
        for limit in limits
    ]


def console_size(tty: bool, size: Sequence[int]) -> Box | None:
    """Height and width of a new terminal; None where unknown."""
    if tty and len(size) == 2 and all(0 < number < 1 << 16 for number in size):
        return Box(height=size[0], width=size[1])
    return None


def _limit(value: int) -> int:
    return value & (2**64 - 1)  # -1 is unlimited


def _words(value: list[str] | str | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
