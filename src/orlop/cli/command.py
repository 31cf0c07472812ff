# SPDX-License-Identifier: Apache-2.0
"""What a command declares about itself, and how its help and usage errors read."""

import os
import textwrap
from collections.abc import Callable

from orlop.cli.errors import PROGRAM, ExitError
from orlop.cli.flags import Args, Flag
from orlop.engine.client import Client

Runner = Callable[[Client, Args], int]


class Command:
    """One command: how it is called, its flags, how many arguments it takes, and the function that runs it.

    `use` is the usage without the program's name (`rm [OPTIONS] CONTAINER [CONTAINER...]`). Arguments:
    `max_args` None means any number. `usage_status` is the exit status of a wrong command line, `long` what the
    help says instead of `short`.
    """

    __slots__ = ("flags", "interspersed", "long", "max_args", "min_args", "run", "short", "usage_status", "use")

    def __init__(
        self,
        use: str,
        short: str,
        run: Runner,
        *,
        flags: list[Flag] | None = None,
        min_args: int = 0,
        max_args: int | None = 0,
        interspersed: bool = True,
        usage_status: int = 125,
        long: str = "",
    ) -> None:
        self.use = use
        self.short = short
        self.run = run
        self.flags = flags or []
        self.min_args = min_args
        self.max_args = max_args
        self.interspersed = interspersed
        self.usage_status = usage_status
        self.long = long or short


def check_arity(command: Command, path: str, count: int) -> None:
    """Raises ExitError with docker's words when the number of arguments is wrong."""
    low, high = command.min_args, command.max_args
    if count >= low and (high is None or count <= high):
        return
    if low == high == 0:
        wants = "accepts no arguments"
    elif low == high:
        wants = f"requires {low} argument{'s' if low != 1 else ''}"
    elif low and high is not None:
        wants = f"requires at least {low} and at most {high} argument{'s' if high != 1 else ''}"
    elif count < low:
        wants = f"requires at least {low} argument{'s' if low != 1 else ''}"
    else:
        wants = f"requires at most {high} argument{'s' if high != 1 else ''}"
    hint = "See" if high is None else "Run"
    raise ExitError(
        f"{PROGRAM}: '{PROGRAM} {path}' {wants}\n\nUsage:  {PROGRAM} {command_use(command, path)}\n\n"
        f"{hint} '{PROGRAM} {path} --help' for more information",
        1,
    )


def command_use(command: Command, path: str) -> str:
    """The usage line, with the path by which the command was called."""
    _, _, arguments = command.use.partition(" ")
    return f"{path} {arguments}".rstrip()


def usage_error(command: Command, path: str, message: str) -> ExitError:
    """A wrong flag: the reason, the usage line and where help is."""
    return ExitError(
        f"{message}\n\nUsage:  {PROGRAM} {command_use(command, path)}\n\n"
        f"Run '{PROGRAM} {path} --help' for more information",
        command.usage_status,
    )


def help_text(command: Command, path: str, aliases: list[str]) -> str:
    """What `--help` prints."""
    parts = [f"Usage:  {PROGRAM} {command_use(command, path)}", "", command.long]
    if len(aliases) > 1:
        parts += ["", "Aliases:", "  " + ", ".join(f"{PROGRAM} {alias}" for alias in aliases)]
    shown = [flag for flag in command.flags if not flag.hidden]
    if shown:
        parts += ["", "Options:", flags_help(shown)]
    return "\n".join(parts)


def flags_help(flags: list[Flag]) -> str:
    """The flags, one a paragraph, wrapped to the terminal's width."""
    labels = []
    for flag in flags:
        label = f"  -{flag.short}, --{flag.name}" if flag.short else f"      --{flag.name}"
        labels.append(label if flag.kind == "bool" else f"{label} {flag.shown_kind}")
    column = max(map(len, labels)) + 3
    width = max(_terminal_width() - column, 24)
    lines = []
    for label, flag in zip(labels, flags, strict=True):
        wrapped = textwrap.wrap(flag.help, width) or [""]
        lines.append(label.ljust(column) + wrapped[0])
        lines += [" " * column + line for line in wrapped[1:]]
    return "\n".join(lines)


def _terminal_width() -> int:
    try:
        return min(os.get_terminal_size(1).columns, 80)
    except OSError:
        return 80
