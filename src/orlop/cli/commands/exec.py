# SPDX-License-Identifier: Apache-2.0
"""`exec`: run a command in a running container."""

import os

from orlop.cli.attachment import Attachment, parse_keys
from orlop.cli.command import Command
from orlop.cli.container_options import environment
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.streams import terminal_size
from orlop.engine.client import Client


def run(client: Client, args: Args) -> int:
    container, *command = args.positional
    detached, tty = args.flag("detach"), args.flag("tty")
    if tty and args.flag("interactive") and not detached and not os.isatty(0):
        raise ExitError("the input device is not a TTY", 1)
    keys = parse_keys(args.text("detach-keys"))
    config = {
        "User": args.text("user"),
        "Privileged": args.flag("privileged"),
        "Tty": tty,
        "AttachStdin": args.flag("interactive") and not detached,
        "AttachStdout": not detached,
        "AttachStderr": not detached,
        "Detach": detached,
        "DetachKeys": args.text("detach-keys"),
        "Env": environment(args.items("env"), args.items("env-file")),
        "WorkingDir": args.text("workdir"),
        "Cmd": command,
    }
    size = terminal_size()
    if tty and size != (0, 0):
        config["ConsoleSize"] = list(size)
    exec_id = client.post(f"/containers/{container}/exec", None, config)["Id"]
    start = {"Detach": detached, "Tty": tty, **({"ConsoleSize": list(size)} if tty and size != (0, 0) else {})}
    if detached:
        client.post(f"/exec/{exec_id}/start", None, start)
        return 0
    sock, early, _ = client.hijack(f"/exec/{exec_id}/start", None, start)
    Attachment.of_exec(client, exec_id, config, sock, early, keys).follow(proxy_signals=False)
    return int(client.get(f"/exec/{exec_id}/json").get("ExitCode") or 0)


EXEC = Command(
    "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
    "Execute a command in a running container",
    run,
    flags=[
        Flag("detach", "d", "bool", "Detached mode: run command in the background"),
        Flag("detach-keys", "", "string", "Override the key sequence for detaching a container"),
        Flag("env", "e", "list", "Set environment variables"),
        Flag("env-file", "", "list", "Read in a file of environment variables"),
        Flag("interactive", "i", "bool", "Keep STDIN open even if not attached"),
        Flag("privileged", "", "bool", "Give extended privileges to the command"),
        Flag("tty", "t", "bool", "Allocate a pseudo-TTY"),
        Flag("user", "u", "string", 'Username or UID (format: "<name|uid>[:<group|gid>]")'),
        Flag("workdir", "w", "string", "Working directory inside the container"),
    ],
    min_args=2,
    max_args=None,
    interspersed=False,
)
