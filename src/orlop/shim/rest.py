# SPDX-License-Identifier: Apache-2.0
"""Gives memory back when a shim has come to rest."""

import gc
from typing import TYPE_CHECKING

from orlop.shim import log
from orlop.shim.loop import Loop

if TYPE_CHECKING:
    from orlop.unix.template import Template

_QUIET = 1.0
"""Seconds after the first call of a burst: the calls of one operation of a client come closer together than that,
and a container that lives shorter needs no rest. Coming to rest takes 3 ms of CPU."""


class Rest:
    """One timer after a burst of work, none while nothing happens."""

    def __init__(self, loop: Loop, template: "Template | None") -> None:
        self._loop = loop
        self._template = template
        self._waiting = False

    def later(self) -> None:
        """There was something to do: come to rest after it."""
        if self._template is not None and not self._waiting:
            self._waiting = True
            self._loop.call_later(_QUIET, self._settle)

    def _settle(self) -> None:
        self._waiting = False
        if self._template is None:
            return
        gc.collect()
        try:
            self._template.settle()
        except OSError as error:
            log.warning(f"memory is not given back any more: {error.strerror}")
            self._template = None
