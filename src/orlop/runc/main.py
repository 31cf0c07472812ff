# SPDX-License-Identifier: Apache-2.0
"""The command line of `orlop-runc`: global flags, the choice of the command, errors and exit codes."""

import os
import signal
import sys

from orlop.errdefs import InvalidArgumentError, NotFoundError, OrlopError
from orlop.runc.commands import COMMANDS, GLOBAL
from orlop.runc.log import Log
from orlop.runc.parse import Flags, parse

DEFAULT_ROOT = "/run/orlop/runc"
VERSION = "0.1.0"
SPEC_VERSION = "1.3.0"
_CREATING = ("create", "run", "restore")


class Call:
    """One invocation: the global settings, the command's flags and its arguments."""

    __slots__ = ("arguments", "cgroup_manager", "command", "flags", "log", "root", "rootless")

    def __init__(
        self, command: str, flags: Flags, arguments: list[str], root: str, log: Log, cgroup_manager: str
    ) -> None:
        self.command = command
        self.flags = flags
        self.arguments = arguments
        self.root = root
        self.log = log
        self.cgroup_manager = cgroup_manager  # cgroupfs, systemd, disabled
        self.rootless: bool | None = None


def main() -> int:
    """Run the command line in sys.argv; its exit code."""
    _open_streams()
    # Whose caller ignores it collects no children: no hook's exit code, no container's.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = Log()
    status = _run(sys.argv[1:], log)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = status or 1  # who has read enough need not be told
    except OSError as error:
        if status == 0:  # else it has been said
            log.error(f"cannot write to standard output: {(error.strerror or str(error)).lower()}")
        status = status or 1
    return status


def _open_streams() -> None:
    """Have something at 0, 1 and 2: what is opened later must not take their place in the container."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8")  # noqa: SIM115


def _run(arguments: list[str], log: Log) -> int:
    try:
        settings, rest = parse(arguments, GLOBAL, stop=True)
        level = "debug" if settings.flag("debug") else settings.text("log-level")
        log.configure(settings.text("log"), settings.text("log-format"), level)
        if settings.flag("version"):
            print(f"orlop-runc version {VERSION}\ncommit: {VERSION}\nspec: {SPEC_VERSION}")
            return 0
        if settings.flag("help") or not rest or rest[0] in ("help", "h"):
            return _help(rest[1:2])
        call = _parse_command(rest, settings, log)
        if call is None:
            return _help(rest[:1])
        if log.debugs:
            _tell_steps(call)
    except OrlopError as error:
        log.error(str(error))
        return 1
    module = COMMANDS[call.command][0]
    try:
        # The one dynamic import: a command loads what it needs and nothing else.
        __import__(f"orlop.runc.{module}")
        status: int = getattr(sys.modules[f"orlop.runc.{module}"], call.command)(call)
        return status
    except (OrlopError, OSError) as error:
        from orlop.libcontainer.errors import explain

        log.error(_prefix(call.command) + explain(error))
        return 255 if call.command == "exec" else 1


def _tell_steps(call: Call) -> None:
    from orlop.libcontainer.journal import set_debug_sink

    set_debug_sink(call.log.debug)
    words = " ".join([call.command, *call.arguments])
    call.log.debug(f"{words}: root {call.root}, control groups by {call.cgroup_manager}, user {os.geteuid()}")


def _parse_command(words: list[str], settings: Flags, log: Log) -> Call | None:
    name = words[0]
    if name not in COMMANDS:
        raise InvalidArgumentError(f"No help topic for '{name}'")
    _, _, fewest, most, _, known = COMMANDS[name]
    flags, rest = parse(words[1:], known, stop=name in ("exec", "ps"))
    if flags.flag("help"):
        return None
    if len(rest) < fewest or (most >= 0 and len(rest) > most):
        exact = f"exactly {fewest}" if fewest == most else f"a minimum of {fewest}"
        raise InvalidArgumentError(f'runc: "{name}" requires {exact} argument(s)')
    root = settings.text("root") or default_root()
    call = Call(name, flags, rest, absolute(root), log, _cgroup_manager(settings))
    call.rootless = _rootless(settings.text("rootless"))
    return call


def absolute(path: str) -> str:
    """The path from the root on. Raises NotFoundError."""
    try:
        return os.path.abspath(path)
    except FileNotFoundError:
        raise NotFoundError(f'"{path}" cannot be found: the current directory has been removed') from None


def default_root() -> str:
    """Where state is kept: below /run, or in the user's own runtime directory for anybody but the real root."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime or not _of_a_user():
        return DEFAULT_ROOT
    directory = f"{runtime}/orlop"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        os.chmod(directory, 0o1700)  # the sticky bit keeps it from being tidied away (XDG base directories)
    except OSError as error:
        raise InvalidArgumentError(
            f"the path in $XDG_RUNTIME_DIR must be writable by the user: {directory}: {error.strerror}"
        ) from None
    return f"{directory}/runc"


def _of_a_user() -> bool:
    if os.geteuid() != 0:
        return True
    if os.environ.get("USER") == "root":
        return False
    from orlop.unix.process import in_user_namespace

    return in_user_namespace()


def _cgroup_manager(settings: Flags) -> str:
    name = settings.text("cgroup-manager") or ("systemd" if settings.flag("systemd-cgroup") else "cgroupfs")
    if name not in ("cgroupfs", "systemd", "disabled"):
        raise InvalidArgumentError(f'cgroup-manager is "{name}", expected cgroupfs, systemd or disabled')
    return name


def _rootless(text: str) -> bool | None:
    known = {"": None, "auto": None, "true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise InvalidArgumentError(f'invalid value "{text}" for flag -rootless: expected true, false or auto')
    return known[text.lower()]


def _prefix(command: str) -> str:
    if command == "exec":
        return "exec failed: "
    return f"runc {command} failed: " if command in _CREATING else ""


def _help(topic: list[str]) -> int:
    from orlop.runc.help import show

    return show(topic[0] if topic else "")
