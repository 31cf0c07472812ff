# SPDX-License-Identifier: Apache-2.0
"""`attach`: join the standard streams of a running container."""

from orlop.cli.attachment import Attachment
from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.engine.client import Client


def run(client: Client, args: Args) -> int:
    details = client.get(f"/containers/{args.positional[0]}/json")
    state = details["State"]
    if not state["Running"]:
        raise ExitError("cannot attach to a stopped container, start it first")
    if state["Paused"]:
        raise ExitError("cannot attach to a paused container, unpause it first")
    if state["Restarting"]:
        raise ExitError("cannot attach to a restarting container, wait until it is running")
    config = {
        **details["Config"],
        "AttachStdin": not args.flag("no-stdin") and details["Config"]["OpenStdin"],
        "AttachStdout": True,
        "AttachStderr": True,
    }
    waiting = client.begin("POST", f"/containers/{details['Id']}/wait", {"condition": "not-running"})
    attachment = Attachment.open(client, details["Id"], config, args.text("detach-keys"))
    if attachment.follow(proxy_signals=args.flag("sig-proxy") and not config["Tty"]):
        return 0
    return int(client.finish(waiting, "POST")["StatusCode"])


ATTACH = Command(
    "attach [OPTIONS] CONTAINER",
    "Attach local standard input, output, and error streams to a running container",
    run,
    flags=[
        Flag("detach-keys", "", "string", "Override the key sequence for detaching a container"),
        Flag("no-stdin", "", "bool", "Do not attach STDIN"),
        Flag("sig-proxy", "", "bool", "Proxy all received signals to the process", default=True),
    ],
    min_args=1,
    max_args=1,
)
