# SPDX-License-Identifier: Apache-2.0
"""Stream processors: programs that turn layers of other media types (encrypted ones, say) into plain layers.

A program reads the layer from standard input and writes what it makes of it to standard output. It is told the
media type in STREAM_PROCESSOR_MEDIATYPE, and given the client's payload for it (a serialised Any), if there is
one, on descriptor 3.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from orlop.errdefs import InvalidArgumentError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from google.protobuf.any_pb2 import Any

    from orlop.containerd.config import StreamProcessor

_STEPS_MAX = 10
_COMPLAINT_MAX = 4096  # bytes of what a program says that are kept


class StreamProcessors:
    """The processors of a daemon."""

    def __init__(self, processors: Sequence[StreamProcessor]) -> None:
        self._processors = processors

    def chain(self, media_type: str, plain: Collection[str]) -> list[StreamProcessor] | None:
        """The processors that lead from a media type to one of `plain`, in order; None if there is no way."""
        steps: list[StreamProcessor] = []
        while media_type not in plain:
            found = next((one for one in self._processors if media_type in one.accepts), None)
            if found is None or len(steps) == _STEPS_MAX:
                return None
            steps.append(found)
            media_type = found.returns
        return steps

    @contextlib.asynccontextmanager
    async def run(
        self, steps: Sequence[StreamProcessor], media_type: str, layer: int, payloads: Mapping[str, Any]
    ) -> AsyncIterator[int]:
        """The descriptor of what comes out at the end of a chain that reads the file `layer`.

        When the block is left, the programs have ended. Raises NotFoundError for a program that is not there, and,
        in place of what is raised inside, InvalidArgumentError with what a program said that failed.
        """
        running: list[_Program] = []
        source = os.dup(layer)
        try:
            try:
                for step in steps:
                    program = await _Program.start(step, media_type, source, payloads.get(step.name))
                    running.append(program)
                    source, media_type = program.output, step.returns
                yield source
            finally:
                os.close(source)
        except BaseException as error:
            complaint = await _ended(running, isinstance(error, Exception))
            if complaint and isinstance(error, Exception):
                raise InvalidArgumentError(complaint) from None
            raise
        complaint = await _ended(running, True)
        if complaint:
            raise InvalidArgumentError(complaint)


async def _ended(running: Sequence[_Program], wait: bool) -> str:
    """End the programs: what the first that failed said."""
    complaints = [await program.end(wait) for program in running]
    return next(filter(None, complaints), "")


class _Program:
    """One program that runs; `output` is the descriptor of what it writes, the caller's to close."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, output: int) -> None:
        self._name = name
        self._process = process
        self.output = output
        assert process.stderr is not None
        self._said = asyncio.ensure_future(process.stderr.read())

    @classmethod
    async def start(cls, step: StreamProcessor, media_type: str, source: int, payload: Any | None) -> _Program:
        """Start it; `source` is closed once it has it. Raises NotFoundError."""
        output, theirs = os.pipe()
        handed = os.memfd_create("payload", 0) if payload is not None else -1
        try:
            variables = {**os.environ, **dict(one.split("=", 1) for one in step.env if "=" in one)}
            variables["STREAM_PROCESSOR_MEDIATYPE"] = media_type
            command = [step.path, *step.args]
            if payload is not None:
                os.write(handed, payload.SerializeToString())
                os.lseek(handed, 0, os.SEEK_SET)
                command = ["/bin/sh", "-c", f'exec "$0" "$@" 3</proc/self/fd/{handed}', *command]
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=source,
                stdout=theirs,
                stderr=asyncio.subprocess.PIPE,
                env=variables,
                pass_fds=(handed,) if handed >= 0 else (),
                start_new_session=True,
            )
        except OSError as error:
            os.close(output)
            raise NotFoundError(f"stream processor {step.name}: {step.path}: {error.strerror}") from None
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(theirs)
            if handed >= 0:
                os.close(handed)
        os.close(source)
        return cls(step.name, process, output)

    async def end(self, wait: bool) -> str:
        """Wait for its end, or kill it: why it failed, if it has."""
        if not wait:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        status = await self._process.wait()
        said = (await self._said)[:_COMPLAINT_MAX].decode(errors="replace").strip()
        if status in (0, -signal.SIGPIPE) or not wait:
            return ""  # a broken pipe comes of a reader that has seen enough
        return f"stream processor {self._name} failed with status {status}" + (f": {said}" if said else "")
