# SPDX-License-Identifier: Apache-2.0
"""Logging programs (binary://), which read the streams from descriptors 3 and 4 and close 5 when ready."""

import os

from orlop.errdefs import UnavailableError
from orlop.shim.io.uri import Binary
from orlop.shim.loop import Loop
from orlop.shim.spawn import spawn


class Logger:
    """A running logging program. It ends by itself when both streams are over."""

    def __init__(self, target: Binary, container_id: str, namespace: str) -> None:
        self._target = target
        self._id = container_id
        self._namespace = namespace
        self.stdout = -1
        self.stderr = -1

    async def start(self, loop: Loop) -> None:
        """Start it and wait until it is ready; `stdout` and `stderr` are then the pipes to write to.

        Raises UnavailableError.
        """
        out, self.stdout = os.pipe()
        err, self.stderr = os.pipe()
        ready, wait = os.pipe()
        env = os.environ | {"CONTAINER_ID": self._id, "CONTAINER_NAMESPACE": self._namespace}
        try:
            try:
                spawn([self._target.path, *self._target.args], env, {3: out, 4: err, 5: wait})
            except OSError as error:
                raise UnavailableError(f"logging program {self._target.path}: {error.strerror}") from None
            finally:
                for fd in (out, err, wait):
                    os.close(fd)
            await loop.readable(ready)
            if not os.read(ready, 1) and self._target.ready_byte:
                raise UnavailableError(f"logging program {self._target.path} ended before it was ready")
        except BaseException:
            self.close()
            raise
        finally:
            os.close(ready)

    def close(self) -> None:
        """Close our ends of the pipes."""
        for fd in (self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.stdout = self.stderr = -1
