# SPDX-License-Identifier: Apache-2.0
"""What several commands share: reading the bundle and the options of create."""

import os

from orlop.errdefs import InvalidArgumentError, NotFoundError
from orlop.libcontainer import CreateOptions
from orlop.libcontainer.journal import set_warning_sink
from orlop.oci.runtime import Spec, decode_spec
from orlop.runc.main import Call, absolute
from orlop.runc.parse import Flags

_CHUNK = 1 << 20
_LARGEST_DOCUMENT = 64 << 20


def load_bundle(call: Call) -> tuple[str, Spec]:
    """The bundle directory of --bundle (or the current one) and its config.json."""
    set_warning_sink(call.log.warning)
    bundle = absolute(call.flags.text("bundle") or ".")
    name = call.flags.text("config") or "config.json"
    path = os.path.join(bundle, name)
    try:
        spec = decode_spec(read_document(path))
    except FileNotFoundError:
        raise NotFoundError(f"JSON specification file {name} not found in {bundle}") from None
    _pass_listen_fds(spec)
    if os.environ.get("NOTIFY_SOCKET") and call.command in ("create", "run"):
        from orlop.runc.notify import pass_socket

        pass_socket(spec, call.root, call.arguments[0])
    return bundle, spec


def read_document(path: str) -> bytes:
    """What a JSON file holds; `-` is standard input. Raises InvalidArgumentError when it is without end."""
    with open(0 if path == "-" else path, "rb", buffering=0, closefd=path != "-") as file:
        raw = bytearray()
        while chunk := file.read(_CHUNK):
            raw += chunk
            if len(raw) > _LARGEST_DOCUMENT:
                raise InvalidArgumentError(f"{path} is larger than {_LARGEST_DOCUMENT >> 20} MiB")
    return bytes(raw)


def create_options(call: Call) -> CreateOptions:
    """The flags that create and run have in common."""
    flags = call.flags
    return CreateOptions(
        console_socket=flags.text("console-socket") or None,
        pidfd_socket=flags.text("pidfd-socket") or None,
        pid_file=flags.text("pid-file") or None,
        preserve_fds=preserved_fds(flags),
        no_pivot=flags.flag("no-pivot"),
        no_new_keyring=flags.flag("no-new-keyring"),
        systemd_cgroup=call.cgroup_manager == "systemd",
        no_cgroup=call.cgroup_manager == "disabled",
        rootless=call.rootless,
        notify_directory=bool(os.environ.get("NOTIFY_SOCKET")),
    )


def preserved_fds(flags: Flags) -> int:
    """How many descriptors from 3 on the process is to have. Raises InvalidArgumentError unless they are open.

    To be asked before this command opens descriptors of its own.
    """
    count = flags.number("preserve-fds")
    if count < 0:
        raise InvalidArgumentError(f"--preserve-fds is {count}, expected 0 or more")
    count += listen_fds()
    for fd in range(3, 3 + count):
        try:
            os.fstat(fd)
        except OSError:
            raise InvalidArgumentError(
                f"--preserve-fds, $LISTEN_FDS: descriptor {fd} (3 to {2 + count}) is not open"
            ) from None
    return count


def listen_fds() -> int:
    """How many sockets a supervisor passes from descriptor 3 on (sd_listen_fds(3)), unless they are another's."""
    value = os.environ.get("LISTEN_FDS", "")
    ours = str(os.getpid())
    for_us = os.environ.get("LISTEN_PID", ours) == ours
    return int(value) if for_us and value.isascii() and value.isdigit() else 0


def _pass_listen_fds(spec: Spec) -> None:
    if listen_fds() and spec.process is not None:
        spec.process.env += [f"LISTEN_FDS={listen_fds()}", "LISTEN_PID=1"]


def check_terminal(*, terminal: bool, detached: bool, socket: str) -> None:
    """A terminal that outlives this command needs somebody who takes it. Raises InvalidArgumentError."""
    if detached and terminal and not socket:
        raise InvalidArgumentError("cannot allocate tty if runc will detach without setting console socket")
    if socket and not (detached and terminal):
        raise InvalidArgumentError("cannot use console socket if runc will not detach or allocate tty")
