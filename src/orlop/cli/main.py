# SPDX-License-Identifier: Apache-2.0
"""Entry point of `orlop`: global flags, dispatch, and the one place where errors are printed."""

import os
import sys

from orlop.cli import tree
from orlop.cli.errors import PROGRAM, ExitError, UsageError
from orlop.cli.flags import Args, Flag, parse
from orlop.errdefs import OrlopError

GLOBAL_FLAGS = [
    Flag("config", "", "string", "Location of client config files"),
    Flag(
        "context",
        "c",
        "string",
        "Name of the context to use to connect to the daemon (overrides DOCKER_HOST env var and default context "
        'set with "docker context use")',
    ),
    Flag("debug", "D", "bool", "Enable debug mode"),
    Flag("host", "H", "string", "Daemon socket to connect to"),
    Flag("log-level", "l", "string", 'Set the logging level ("debug", "info", "warn", "error", "fatal")'),
    Flag("tls", "", "bool", "Use TLS; implied by --tlsverify"),
    Flag("tlscacert", "", "string", "Trust certs signed only by this CA (default: ca.pem beside config.json)"),
    Flag("tlscert", "", "string", "Path to TLS certificate file (default: cert.pem beside config.json)"),
    Flag("tlskey", "", "string", "Path to TLS key file (default: key.pem beside config.json)"),
    Flag("tlsverify", "", "bool", "Use TLS and verify the remote"),
    Flag("version", "v", "bool", "Print version information and quit"),
]


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(words)
    except ExitError as error:
        if str(error):
            print(error, file=sys.stderr)
        return error.status
    except OrlopError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output has gone (`orlop ps | head -1`): end quietly, as a C program does at SIGPIPE.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        return 130


def _dispatch(words: list[str]) -> int:
    try:
        options = parse(GLOBAL_FLAGS, words, interspersed=False)
    except UsageError as error:
        raise ExitError(f"{error}\n\nRun '{PROGRAM} --help' for more information", 125) from None
    rest = options.positional
    if options.flag("version"):
        from orlop import __version__

        print(f"{PROGRAM} version {__version__}")
        return 0
    if rest[:1] == ["daemon"]:
        from orlop.activation.cli import run

        return run(rest[1:])
    if not rest or options.flag("help") or rest[0] == "help":
        return _help(rest[1:] if rest[:1] == ["help"] else rest)
    found = tree.find(rest)
    if found is None:
        return _unknown(rest)
    if options.text("config"):
        os.environ["DOCKER_CONFIG"] = options.text("config")
    return _run(options, *found)


def _run(options: Args, typed: str, path: str, arguments: list[str]) -> int:
    from importlib import import_module

    from orlop.cli.command import Command, check_arity, help_text, usage_error
    from orlop.cli.connecting import connect
    from orlop.engine.client import ConnectionFailedError, EngineError

    module, name, _ = tree.COMMANDS[path]
    command: Command = getattr(import_module(f"orlop.cli.commands.{module}"), name)
    try:
        args = parse(command.flags, arguments, interspersed=command.interspersed)
    except UsageError as error:
        raise usage_error(command, typed, str(error)) from None
    if args.flag("help"):
        print(help_text(command, typed, tree.aliases_of(path)))
        return 0
    check_arity(command, typed, len(args.positional))
    try:
        return command.run(connect(options, needs_daemon=not path.startswith("context ")), args)
    except UsageError as error:
        raise usage_error(command, typed, str(error)) from None
    except EngineError as error:
        raise ExitError(f"Error response from daemon: {error}", 1) from None
    except ConnectionFailedError as error:
        raise ExitError(str(error), 1) from None


def _unknown(words: list[str]) -> int:
    group = words[0]
    if group in tree.GROUPS:
        if len(words) == 1 or words[1] == "--help":
            return _help([group])
        raise ExitError(
            f"{PROGRAM}: unknown command: {PROGRAM} {group} {words[1]}\n\n"
            f"Usage:  {PROGRAM} {group} COMMAND\n\nRun '{PROGRAM} {group} --help' for more information"
        )
    raise ExitError(
        f"{PROGRAM}: unknown command: {PROGRAM} {group}\n\nRun '{PROGRAM} --help' for more information"
    )


def _help(words: list[str]) -> int:
    if words and (found := tree.find(words)):
        typed, path, _ = found
        return _run(parse(GLOBAL_FLAGS, []), typed, path, ["--help"])
    from orlop.cli.command import flags_help

    if words and words[0] in tree.GROUPS:
        group = words[0]
        paths = [p for p in [*tree.COMMANDS, *tree.ALIASES] if p.startswith(group + " ") and p not in tree.HIDDEN]
        rows = {p.split()[1]: _short(p) for p in paths}
        for alias in ("list", "remove"):
            rows.pop(alias, None)
        print(f"Usage:  {PROGRAM} {group} COMMAND\n\n{tree.GROUPS[group]}\n\nCommands:")
        print(_listing(sorted(rows.items())))
        print(f"\nRun '{PROGRAM} {group} COMMAND --help' for more information on a command.")
        return 0
    others = sorted(p for p in tree.COMMANDS if " " not in p and p not in tree.COMMON)
    print(f"Usage:  {PROGRAM} [OPTIONS] COMMAND\n\nThe Docker stack in Python\n\nCommon Commands:")
    print(_listing([(p, _short(p)) for p in tree.COMMON]))
    print("\nManagement Commands:\n" + _listing(sorted(tree.GROUPS.items())))
    print("\nCommands:\n" + _listing([(p, _short(p)) for p in others]))
    print("\nGlobal Options:\n" + flags_help(GLOBAL_FLAGS))
    print(f"\nRun '{PROGRAM} COMMAND --help' for more information on a command.")
    return 0


def _short(path: str) -> str:
    return tree.COMMANDS[tree.ALIASES.get(path, path)][2]


def _listing(rows: list[tuple[str, str]]) -> str:
    return "\n".join(f"  {name:<11} {text}" for name, text in rows)


if __name__ == "__main__":
    sys.exit(main())
