# SPDX-License-Identifier: Apache-2.0
"""The debug socket: what the daemon is doing just now, where Go's programs serve their profiles."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import resource
import sys
import threading
import traceback
from collections import Counter

from aiohttp import web

_INDEX = """/debug/vars              command line, memory, counts (JSON)
/debug/pprof/cmdline     command line
/debug/pprof/goroutine   stacks of all threads and asyncio tasks
/debug/pprof/heap        objects by type
"""
_OF_GO = ("profile", "trace", "block", "mutex", "allocs", "threadcreate")


def application() -> web.Application:
    """What the debug socket serves."""
    app = web.Application()
    app.router.add_get("/debug/vars", _vars)
    app.router.add_get("/debug/pprof/", _index)
    app.router.add_get("/debug/pprof/cmdline", _cmdline)
    app.router.add_get("/debug/pprof/goroutine", _stacks)
    app.router.add_get("/debug/pprof/heap", _heap)
    for name in _OF_GO:
        app.router.add_get(f"/debug/pprof/{name}", _not_here)
    return app


async def _vars(_request: web.Request) -> web.Response:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return web.json_response(
        {
            "cmdline": sys.orig_argv,
            "memstats": {"max_resident_kibibytes": usage.ru_maxrss, "objects": len(gc.get_objects())},
            "threads": threading.active_count(),
            "tasks": len(asyncio.all_tasks()),
            "descriptors": len(os.listdir("/proc/self/fd")),
        }
    )


async def _index(_request: web.Request) -> web.Response:
    return web.Response(text=_INDEX)


async def _cmdline(_request: web.Request) -> web.Response:
    return web.Response(text="\0".join(sys.orig_argv))


async def _stacks(_request: web.Request) -> web.Response:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    text = io.StringIO()
    for ident, frame in sys._current_frames().items():
        text.write(f"thread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame))}\n")
    for task in asyncio.all_tasks():
        text.write(f"{task!r}\n{_stack(task)}\n")
    return web.Response(text=text.getvalue())


def _stack(task: asyncio.Task[object]) -> str:
    try:
        frames = task.get_stack()
    except AttributeError:
        return ""  # a coroutine of compiled code (gRPC's) has no frames to show
    return "".join(f'  File "{one.f_code.co_filename}", line {one.f_lineno}\n' for one in frames)


async def _heap(_request: web.Request) -> web.Response:
    counts = Counter(f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())
    return web.Response(text="".join(f"{count:10} {name}\n" for name, count in counts.most_common(200)))


async def _not_here(request: web.Request) -> web.Response:
    return web.Response(status=501, text=f"{request.path}: profiles are not made by this daemon\n")
