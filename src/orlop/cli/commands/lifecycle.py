# SPDX-License-Identifier: Apache-2.0
"""One request a container: stop, kill, restart, pause, unpause, rm, rename, wait."""

import sys
from collections.abc import Callable

from orlop.cli.command import Command
from orlop.cli.flags import Args, Flag
from orlop.engine.client import Client, EngineError

Action = Callable[[Client, Args, str], str]


def each(action: Action) -> Callable[[Client, Args], int]:
    """A command that does `action` to each argument and prints what it returns; errors don't stop the others.

    With a flag --force, what does not exist is told but no failure.
    """

    def run(client: Client, args: Args) -> int:
        status = 0
        for name in args.positional:
            try:
                print(action(client, args, name), flush=True)
            except EngineError as error:
                print(f"Error response from daemon: {error}", file=sys.stderr)
                if error.status != 404 or "force" not in args.given:
                    status = 1
        return status

    return run


def _stop(client: Client, args: Args, name: str) -> str:
    client.post(f"/containers/{name}/stop", _stop_query(args))
    return name


def _restart(client: Client, args: Args, name: str) -> str:
    client.post(f"/containers/{name}/restart", _stop_query(args))
    return name


def _stop_query(args: Args) -> dict[str, str | int | None]:
    timeout: int | None = None
    for flag in ("time", "timeout"):
        if flag in args.given:
            timeout = args.number(flag)
    return {"t": timeout, "signal": args.text("signal") or None}


def _kill(client: Client, args: Args, name: str) -> str:
    client.post(f"/containers/{name}/kill", {"signal": args.text("signal") or None})
    return name


def _pause(client: Client, args: Args, name: str) -> str:
    client.post(f"/containers/{name}/pause")
    return name


def _unpause(client: Client, args: Args, name: str) -> str:
    client.post(f"/containers/{name}/unpause")
    return name


def _remove(client: Client, args: Args, name: str) -> str:
    query = {
        flag: True for flag, given in (("force", "force"), ("v", "volumes"), ("link", "link")) if args.flag(given)
    }
    client.delete(f"/containers/{name.strip('/')}", query)
    return name


def _wait(client: Client, args: Args, name: str) -> str:
    return str(client.post(f"/containers/{name}/wait")["StatusCode"])


def _rename(client: Client, args: Args) -> int:
    old, new = args.positional
    client.post(f"/containers/{old}/rename", {"name": new})
    return 0


def _many(name: str, short: str, action: Action, flags: list[Flag] | None = None) -> Command:
    options = "[OPTIONS] " if flags else ""
    use = f"{name} {options}CONTAINER [CONTAINER...]"
    return Command(use, short, each(action), flags=flags, min_args=1, max_args=None)


_SIGNAL = Flag("signal", "s", "string", "Signal to send to the container")
_STOP_FLAGS = [
    _SIGNAL,
    Flag("timeout", "t", "int", "Seconds to wait before killing the container"),
    Flag("time", "", "int", "Seconds to wait before killing the container (deprecated)", hidden=True),
]

STOP = _many("stop", "Stop one or more running containers", _stop, _STOP_FLAGS)
RESTART = _many("restart", "Restart one or more containers", _restart, _STOP_FLAGS)
KILL = _many("kill", "Kill one or more running containers", _kill, [_SIGNAL])
PAUSE = _many("pause", "Pause all processes within one or more containers", _pause)
UNPAUSE = _many("unpause", "Unpause all processes within one or more containers", _unpause)
WAIT = _many("wait", "Block until one or more containers stop, then print their exit codes", _wait)
REMOVE = _many(
    "rm",
    "Remove one or more containers",
    _remove,
    [
        Flag("force", "f", "bool", "Force the removal of a running container (uses SIGKILL)"),
        Flag("link", "l", "bool", "Remove the specified link"),
        Flag("volumes", "v", "bool", "Remove anonymous volumes associated with the container"),
    ],
)
RENAME = Command("rename CONTAINER NEW_NAME", "Rename a container", _rename, min_args=2, max_args=2)
