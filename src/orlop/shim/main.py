# SPDX-License-Identifier: Apache-2.0
"""The command line of `containerd-shim-orlop-v2`, as containerd calls it: start, delete, -info, -v, or the server.

`start` imports little: it binds the socket, starts the server with the socket as descriptor 3, and is gone. Calls
that come before the server is ready wait in the socket's backlog.
"""

import os
import sys

from orlop.errdefs import InvalidArgumentError, OrlopError

NAME = "containerd-shim-orlop-v2"
_FLAGS = {"namespace", "id", "address", "publish-binary", "bundle", "socket", "debug-socket"}
_SWITCHES = {"debug", "v", "version", "info"}


def parse(args: list[str]) -> tuple[dict[str, str], list[str]]:
    """Flags as Go's flag package takes them (`-name value`, `-name=value`, one or two dashes), then the rest.

    Raises InvalidArgumentError.
    """
    flags: dict[str, str] = {}
    left = list(args)
    while left and left[0].startswith("-") and left[0] != "-":
        word = left.pop(0)
        if word == "--":
            break
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if name in _SWITCHES:
            flags[name] = value if equals else "true"
        elif name in _FLAGS:
            if not equals and not left:
                raise InvalidArgumentError(f"flag needs an argument: -{name}")
            flags[name] = value if equals else left.pop(0)
        else:
            raise InvalidArgumentError(f"flag provided but not defined: -{name}")
    return flags, left


def main() -> None:
    """Run the command line and exit."""
    try:
        flags, rest = parse(sys.argv[1:])
        if "v" in flags or "version" in flags:
            _version()
        elif "info" in flags:
            from orlop.shim.info import print_info

            print_info()
        elif not flags.get("namespace"):
            raise InvalidArgumentError("shim namespace cannot be empty")
        elif rest[:1] == ["start"]:
            _start(flags)
        elif rest[:1] == ["delete"]:
            from orlop.shim.unused import leave_out

            leave_out()
            from orlop.shim.cleanup import delete

            _print(delete(flags["namespace"], _id(flags), flags.get("bundle") or os.getcwd()))
        elif rest:
            raise InvalidArgumentError(f"unknown action {rest[0]!r}: start or delete was expected")
        else:
            _serve(flags)
    except OrlopError as error:
        sys.stderr.write(f"{NAME}: {error}\n")
        sys.exit(1)


def prepare() -> None:
    """What can be done once for all starts (orlop.unix.unexec): all that a server needs is imported.

    Nothing is used yet: what is found out about the machine on the way may not be true at a start.
    """
    import gc

    from orlop.shim.unused import leave_out

    leave_out()
    from orlop.shim.warm import import_all

    import_all()
    gc.disable()


def _id(flags: dict[str, str]) -> str:
    container_id = flags.get("id", "")
    if not container_id:
        raise InvalidArgumentError("-id cannot be empty")
    return container_id


def _version() -> None:
    from orlop.shim.service import VERSION

    _print(f"{NAME}:\n  Version:  {VERSION}\n  Python version: {sys.version.split()[0]}\n\n".encode())


def _print(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _start(flags: dict[str, str]) -> None:
    from orlop.shim import bootstrap
    from orlop.shim.seal import start_server

    raw = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    start = bootstrap.read_params(
        raw, flags["namespace"], _id(flags), flags.get("address", ""), flags.get("debug", "") == "true"
    )
    group = bootstrap.group_of(".", start.id)
    path = bootstrap.socket_address(start, group)
    listener = bootstrap.bind(path)
    if listener is not None:
        try:
            start_server(listener, path, start)
        except OSError as error:
            os.unlink(path)
            raise OrlopError(f"cannot start the server: {error.strerror}") from None
    address = f"unix://{path}"
    with open("address", "w", encoding="ascii") as file:
        file.write(address)
    _print(bootstrap.answer(start, address))


def _serve(flags: dict[str, str]) -> None:
    """The server: the listening socket is descriptor 3, or is made at -socket."""
    import socket

    from orlop.shim.unused import leave_out

    leave_out()
    from orlop.shim import bootstrap
    from orlop.shim.server import serve, settle_in
    from orlop.unix.process import close_range

    close_range(4)  # whatever else the caller had open
    start = bootstrap.read_params(
        b"", flags["namespace"], _id(flags), flags.get("address", ""), flags.get("debug", "") == "true"
    )
    start.debug_socket = flags.get("debug-socket", "").removeprefix("unix://")
    wanted = flags.get("socket", "").removeprefix("unix://")
    if wanted:
        bound = bootstrap.bind(wanted)
        if bound is None:
            raise InvalidArgumentError(f"-socket: {wanted} is served already")
        listener = socket.socket(fileno=bound)
    else:
        try:
            listener = socket.socket(fileno=os.dup(3))
            path = listener.getsockname()
        except OSError as error:
            raise InvalidArgumentError(f"descriptor 3 is no socket: {error.strerror}") from None
        os.close(3)
        wanted = str(path)
    start.socket_dir = os.path.dirname(wanted)
    os.setsid()
    settle_in(os.getcwd())
    serve(listener, start, wanted)


if __name__ == "__main__":
    main()
