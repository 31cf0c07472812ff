# SPDX-License-Identifier: Apache-2.0
"""The processes of a container, by the host's ps."""

import asyncio
import re
import shlex

from orlop.containerd.client import Client
from orlop.dockerd.containers.registry import Registry
from orlop.errdefs import ConflictError, InternalError, InvalidArgumentError

# ps takes fields under any header: one named PID that is none would let foreign processes through.
_RENAMED_PID = re.compile(r"\s+(\w+)=\s*(\w+)")


class Top:
    """The use case."""

    def __init__(self, registry: Registry, client: Client) -> None:
        self._registry = registry
        self._client = client

    async def __call__(self, reference: str, ps_args: str = "") -> dict[str, object]:
        """`Titles` and `Processes`. Raises NotFoundError, ConflictError (not running), InvalidArgumentError."""
        container = self._registry.get(reference)
        state = container.record.state
        if not state.running:
            raise ConflictError(f"container {container.id} is not running")
        if state.restarting:
            raise ConflictError(f"Container {container.id} is restarting, wait until the container is running")
        arguments = _split(ps_args or "-ef")
        pids = {process.pid for process in await self._client.tasks.pids(container.id)}
        output = await _ps(arguments)
        self._registry.publish(container, "top")
        return parse_ps(output, pids)


def _split(text: str) -> list[str]:
    for header in _RENAMED_PID.findall(f" {text}"):
        if header[1] == "PID" and header[0] != "pid":
            raise InvalidArgumentError(f'specifying "{header[0]}={header[1]}" is not allowed')
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InvalidArgumentError(f"ps_args: {error}") from None


async def _ps(arguments: list[str]) -> str:
    process = await asyncio.create_subprocess_exec(
        "ps",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode:
        reason = errors.decode("utf-8", "replace").strip().splitlines()[:1]
        raise InternalError(f"ps: {reason[0] if reason else f'exit status {process.returncode}'}")
    return output.decode("utf-8", "replace")


def parse_ps(output: str, pids: set[int]) -> dict[str, object]:
    """The lines of ps that belong to the pids. The last column takes the rest of the line."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InternalError("Couldn't find PID field in ps output")
    at = titles.index("PID")
    processes = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > at and fields[at].isdecimal() and int(fields[at]) in pids:
            processes.append([field.strip() for field in fields])
    return {"Titles": titles, "Processes": processes}
