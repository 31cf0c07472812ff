# SPDX-License-Identifier: Apache-2.0
"""`start`: start stopped containers, or one and stay attached."""

import sys

from orlop.cli.attachment import Attachment
from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.engine.client import Client, EngineError, Query


def run(client: Client, args: Args) -> int:
    if not (args.flag("attach") or args.flag("interactive")):
        if args.text("checkpoint") and len(args.positional) > 1:
            raise ExitError("you cannot restore multiple containers at once", 1)
        return _start_all(client, args.positional, _checkpoint(args))
    if len(args.positional) > 1:
        raise ExitError("you cannot start and attach multiple containers at once", 1)
    return _start_attached(client, args.positional[0], args)


def _checkpoint(args: Args) -> Query:
    return {
        "checkpoint": args.text("checkpoint") or None,
        "checkpoint-dir": args.text("checkpoint-dir") or None,
    }


def _start_all(client: Client, names: list[str], query: Query) -> int:
    failed = []
    for name in names:
        try:
            client.post(f"/containers/{name}/start", query)
            print(name)
        except EngineError as error:
            print(f"Error response from daemon: {error}", file=sys.stderr)
            failed.append(name)
    if failed:
        raise ExitError(f"failed to start containers: {', '.join(failed)}")
    return 0


def _start_attached(client: Client, name: str, args: Args) -> int:
    details = client.get(f"/containers/{name}/json")
    container = details["Id"]
    config = {
        **details["Config"],
        "AttachStdin": args.flag("interactive") and details["Config"]["OpenStdin"],
        "AttachStdout": True,
        "AttachStderr": True,
    }
    attachment = Attachment.open(client, container, config, args.text("detach-keys"))
    condition = "removed" if details["HostConfig"].get("AutoRemove") else "next-exit"
    waiting = client.begin("POST", f"/containers/{container}/wait", {"condition": condition})
    try:
        client.post(f"/containers/{container}/start", _checkpoint(args))
    except EngineError:
        attachment.close()
        raise
    if attachment.follow(proxy_signals=not config["Tty"]):
        return 0
    return int(client.finish(waiting, "POST")["StatusCode"])


START = Command(
    "start [OPTIONS] CONTAINER [CONTAINER...]",
    "Start one or more stopped containers",
    run,
    flags=[
        Flag("attach", "a", "bool", "Attach STDOUT/STDERR and forward signals"),
        Flag("checkpoint", "", "string", "Restore from this checkpoint"),
        Flag("checkpoint-dir", "", "string", "Use a custom checkpoint storage directory"),
        Flag("detach-keys", "", "string", "Override the key sequence for detaching a container"),
        Flag("interactive", "i", "bool", "Attach container's STDIN"),
    ],
    min_args=1,
    max_args=None,
)
