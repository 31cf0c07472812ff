# SPDX-License-Identifier: Apache-2.0
"""What the daemon is doing right now, for people: where Docker's has Go's profiler, in Python's terms."""

import asyncio
import gc
import io
import resource
import sys
import traceback
from collections import Counter
from collections.abc import Iterator

from aiohttp import web

from orlop.dockerd.api.request import ApiRequest
from orlop.dockerd.api.router import Route
from orlop.dockerd.api.streams import json_response
from orlop.errdefs import InvalidArgumentError, NotImplementedByUsError

_LONGEST_PROFILE = 300


class DebugRoutes:
    """The endpoints below /debug."""

    def routes(self) -> list[Route]:
        """The table."""
        return [
            Route("GET", "/debug/vars", self.vars),
            Route("GET", "/debug/pprof/", self.index),
            Route("GET", "/debug/pprof/cmdline", self.cmdline),
            Route("GET", "/debug/pprof/goroutine", self.tasks),
            Route("GET", "/debug/pprof/heap", self.heap),
            Route("GET", "/debug/pprof/profile", self.profile),
            Route("GET", "/debug/pprof/{name}", self.other),
        ]

    async def vars(self, request: ApiRequest) -> web.StreamResponse:
        """Command line and memory, as Go's expvar has them."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        collections = sum(generation["collections"] for generation in gc.get_stats())
        memory = {"Sys": used.ru_maxrss * 1024, "HeapObjects": len(gc.get_objects()), "NumGC": collections}
        return json_response({"cmdline": sys.orig_argv, "memstats": memory})

    async def index(self, request: ApiRequest) -> web.StreamResponse:
        """What there is."""
        return web.Response(text="/debug/pprof/\n\ncmdline\ngoroutine\nheap\nprofile\n")

    async def cmdline(self, request: ApiRequest) -> web.StreamResponse:
        """The command line, its words apart by NUL."""
        return web.Response(text="\0".join(sys.orig_argv))

    async def tasks(self, request: ApiRequest) -> web.StreamResponse:
        """Every task and thread, and where it is."""
        return web.Response(text="\n".join(_stacks()))

    async def heap(self, request: ApiRequest) -> web.StreamResponse:
        """How many objects of each type there are."""
        counts = Counter(type(thing).__qualname__ for thing in gc.get_objects())
        return web.Response(text="".join(f"{count} {name}\n" for name, count in counts.most_common(200)))

    async def profile(self, request: ApiRequest) -> web.StreamResponse:
        """Where the event loop's thread spends `seconds` (30), by cProfile, as text."""
        import cProfile
        import pstats

        seconds = request.integer("seconds", 30) or 30
        if not 0 < seconds <= _LONGEST_PROFILE:
            raise InvalidArgumentError(f"invalid value for seconds: {seconds}: at most {_LONGEST_PROFILE}")
        profiler = cProfile.Profile()
        profiler.enable()
        try:
            await asyncio.sleep(seconds)
        finally:
            profiler.disable()
        text = io.StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("cumulative").print_stats(60)
        return web.Response(text=text.getvalue())

    async def other(self, request: ApiRequest) -> web.StreamResponse:
        """Go's other profiles have no counterpart."""
        raise NotImplementedByUsError(f"there is no profile {request.params['name']} of this daemon")


def _stacks() -> Iterator[str]:
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        out = io.StringIO()
        task.print_stack(file=out)
        yield f"{task.get_name()}: {task.get_coro()!r}\n{out.getvalue()}"
    for identity, frame in sys._current_frames().items():
        yield f"thread {identity}\n{''.join(traceback.format_stack(frame))}"
