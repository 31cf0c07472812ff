# SPDX-License-Identifier: Apache-2.0
"""Help texts, drawn from the table of commands."""

import sys

from orlop.runc.commands import COMMANDS, GLOBAL, Flag


def show(topic: str) -> int:
    """Print the help of a command, or of the whole for ""; the exit code."""
    if not topic:
        print("NAME:\n   orlop-runc - Open Container Initiative runtime\n")
        print("USAGE:\n   orlop-runc [global options] command [command options] [arguments...]\n\nCOMMANDS:")
        for name, command in COMMANDS.items():
            print(f"   {name:<12}{command[4]}")
        print("\nGLOBAL OPTIONS:")
        _flags(GLOBAL)
        return 0
    if topic not in COMMANDS:
        print(f"No help topic for '{topic}'", file=sys.stderr)
        return 3
    _, usage, _, _, text, flags = COMMANDS[topic]
    print(
        f"NAME:\n   orlop-runc {topic} - {text}\n\n"
        f"USAGE:\n   orlop-runc {topic} [command options] {usage}\n\nOPTIONS:"
    )
    _flags(flags)
    return 0


def _flags(flags: tuple[Flag, ...]) -> None:
    for long, short, kind, text in flags:
        value = "" if kind == "bool" else " value"
        names = f"--{long}{value}" + (f", -{short}{value}" if short else "")
        print(f"   {names:<34}{text}")
