# SPDX-License-Identifier: Apache-2.0
"""`run` and `create`: make a container, pulling its image if needed; run also starts it and stays attached."""

import os
import sys
from typing import Any

from orlop.cli.attachment import Attachment, start_failure_status
from orlop.cli.command import Command
from orlop.cli.commands.run_flags import CREATE_FLAGS, RUN_FLAGS
from orlop.cli.container_options import create_body
from orlop.cli.errors import PROGRAM, ExitError
from orlop.cli.flags import Args
from orlop.engine.client import Client, ConnectionFailedError, EngineError


def run(client: Client, args: Args) -> int:
    try:
        return _run(client, args)
    except (EngineError, ConnectionFailedError) as error:
        prefix = "Error response from daemon: " if isinstance(error, EngineError) else ""
        raise ExitError(_run_error(f"{prefix}{error}"), 125) from None


def _run(client: Client, args: Args) -> int:
    body = _body(client, args, "run")
    detached = args.flag("detach")
    if detached:
        if args.items("attach"):
            raise ExitError(_run_error("conflicting options: cannot specify both --attach and --detach"), 125)
        body.update(AttachStdin=False, AttachStdout=False, AttachStderr=False, StdinOnce=False)
    _check_terminal(args, detached)
    container = _create(client, args, body)
    attachment = None if detached else Attachment.open(client, container, body, args.text("detach-keys"))
    waiting = None
    if attachment is not None:
        condition = "removed" if args.flag("rm") else "next-exit"
        waiting = client.begin("POST", f"/containers/{container}/wait", {"condition": condition})
    try:
        client.post(f"/containers/{container}/start")
    except EngineError as error:
        if attachment is not None:
            attachment.close()
        if waiting is not None and args.flag("rm"):
            client.finish(waiting, "POST")
        raise ExitError(
            _run_error(f"Error response from daemon: {error}"), start_failure_status(str(error))
        ) from None
    if attachment is None or waiting is None:
        print(container)
        return 0
    proxy = args.flag("sig-proxy") and not args.flag("tty")
    if attachment.follow(proxy_signals=proxy):
        return 0  # the user typed the detach keys: the container goes on
    result = client.finish(waiting, "POST")
    if problem := (result.get("Error") or {}).get("Message"):
        print(f"Error waiting for container: {problem}", file=sys.stderr)
    return int(result["StatusCode"])


def create(client: Client, args: Args) -> int:
    try:
        print(_create(client, args, _body(client, args, "create")))
    except EngineError as error:
        raise ExitError(f"Error response from daemon: {error}") from None
    return 0


def _body(client: Client, args: Args, command: str) -> dict[str, Any]:
    """What is to be made. Raises ExitError for flags that mean nothing, UsageError."""
    try:
        body = create_body(args)
    except ExitError as error:
        raise ExitError(_run_error(str(error), command), 125) from None
    if "MacAddress" in body and tuple(map(int, client.api_version.split("."))) >= (1, 44):
        del body["MacAddress"]  # the endpoint has it
    return body


def _create(client: Client, args: Args, body: dict[str, Any]) -> str:
    """Make the container; returns its id. Pulls the image as --pull says."""
    cid_file = _open_cid_file(args.text("cidfile"))
    policy = args.text("pull")
    if policy not in ("always", "missing", "never"):
        raise ExitError(f'invalid pull option: \'{policy}\': must be one of "always", "missing" or "never"', 125)
    query = {"name": args.text("name") or None, "platform": args.text("platform") or None}
    auths = _with_api_socket(client, body) if args.flag("use-api-socket") else {}
    if policy == "always":
        _pull(client, args, body["Image"])
    try:
        answer = client.post("/containers/create", query, body)
    except EngineError as error:
        if error.status != 404 or policy != "missing" or "No such image" not in str(error):
            if cid_file:
                os.unlink(args.text("cidfile"))
            raise
        if not args.flag("quiet"):
            print(f"Unable to find image '{_familiar(body['Image'])}' locally", file=sys.stderr)
        _pull(client, args, body["Image"])
        answer = client.post("/containers/create", query, body)
    for warning in answer.get("Warnings") or []:
        print(f"WARNING: {warning}", file=sys.stderr)
    container: str = answer["Id"]
    if auths:
        _deliver(client, container, auths)
    if cid_file:
        os.write(cid_file, container.encode())
        os.close(cid_file)
    return container


def _with_api_socket(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    from orlop.cli import api_socket

    return api_socket.request(client, body)


def _deliver(client: Client, container: str, auths: dict[str, Any]) -> None:
    """Bring credentials into a container that has just been made, which goes where that fails."""
    from orlop.cli import api_socket

    try:
        api_socket.deliver(client, container, auths)
    except EngineError:
        client.delete(f"/containers/{container}", {"force": True})
        raise


def _pull(client: Client, args: Args, image: str) -> None:
    from orlop.cli.pulling import pull

    pull(client, image, args.text("platform"), quiet=args.flag("quiet"), to=sys.stderr)


def _familiar(image: str) -> str:
    name = image.rsplit("/", 1)[-1]
    return image if ":" in name or "@" in image else f"{image}:latest"


def _open_cid_file(path: str) -> int:
    if not path:
        return 0
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise ExitError(
            _run_error(f"container ID file found, make sure the other container isn't running or delete {path}"),
            125,
        ) from None
    except OSError as error:
        raise ExitError(_run_error(f"failed to create the container ID file: {error}"), 125) from None


def _check_terminal(args: Args, detached: bool) -> None:
    if args.flag("tty") and args.flag("interactive") and not detached and not os.isatty(0):
        raise ExitError("the input device is not a TTY", 1)


def _run_error(message: str, command: str = "run") -> str:
    return f"{PROGRAM}: {message}\n\nRun '{PROGRAM} {command} --help' for more information"


RUN = Command(
    "run [OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create and run a new container from an image",
    run,
    flags=RUN_FLAGS,
    min_args=1,
    max_args=None,
    interspersed=False,
)
CREATE = Command(
    "create [OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create a new container",
    create,
    flags=CREATE_FLAGS,
    min_args=1,
    max_args=None,
    interspersed=False,
)
