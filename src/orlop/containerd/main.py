# SPDX-License-Identifier: Apache-2.0
"""The command line of orlop-containerd."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from orlop import __version__
from orlop.errdefs import InvalidArgumentError, OrlopError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from orlop.containerd.config import Config

REVISION = "orlop-" + __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon, or a command: `check`, `config default|dump`, `publish`; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except OrlopError as error:
        sys.stderr.write(f"orlop-containerd: {error}\n")
    except OSError as error:
        sys.stderr.write(f"orlop-containerd: {error.filename or ''}: {error.strerror}\n")
    return 1


def _parser() -> argparse.ArgumentParser:
    import argparse

    parser = argparse.ArgumentParser("orlop-containerd", description="Manage containers, images and snapshots.")
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="configuration (default /etc/orlop/containerd.toml)"
    )
    parser.add_argument("-a", "--address", metavar="SOCKET", help="path of the gRPC socket")
    parser.add_argument("--root", metavar="DIR", help="directory of what is kept")
    parser.add_argument("--state", metavar="DIR", help="directory of what a reboot may take")
    parser.add_argument(
        "-l", "--log-level", metavar="LEVEL", help="trace, debug, info, warn, error, fatal or panic"
    )
    parser.add_argument("-v", "--version", action="version", version=f"containerd orlop {__version__} {REVISION}")
    parser.set_defaults(run=_serve)
    commands = parser.add_subparsers(metavar="COMMAND")
    config = commands.add_parser("config", help="information on the configuration")
    kinds = config.add_subparsers(metavar="default|dump", required=True)
    kinds.add_parser("default", help="print the default configuration").set_defaults(run=_config_default)
    kinds.add_parser("dump", help="print the configuration in use").set_defaults(run=_config_dump)
    check = commands.add_parser("check", help="compare the metadata with what is on the disk")
    check.add_argument("--repair", action="store_true", help="remove what is damaged, so that it is fetched again")
    check.set_defaults(run=_check)
    publish = commands.add_parser("publish", help="publish an event (an Any on standard input)")
    publish.add_argument("--namespace", required=True)
    publish.add_argument("--topic", required=True)
    publish.set_defaults(run=_publish)
    return parser


def _load(options: argparse.Namespace) -> Config:
    from orlop.containerd.config import load

    names = {"address": "address", "root": "root", "state": "state", "log_level": "level"}
    given = {field: getattr(options, name) for name, field in names.items() if getattr(options, name)}
    return load(options.config, given)


def _config_default(_options: argparse.Namespace) -> int:
    from orlop.containerd.config import Config
    from orlop.containerd.config_file import dump

    sys.stdout.write(dump(Config()))
    return 0


def _config_dump(options: argparse.Namespace) -> int:
    from orlop.containerd.config_file import dump

    sys.stdout.write(dump(_load(options)))
    return 0


def _check(options: argparse.Namespace) -> int:
    """0 if nothing but leftovers is found, or all faults are repaired; else 1."""
    from orlop.containerd import check

    config = _load(options)
    if config.content_stores:
        name = config.content_stores[0].name
        raise InvalidArgumentError(f"check: content is kept by the proxy plugin {name}, which is not looked into")
    report = check.check(config.root, config.state)
    for finding in report.findings:
        sys.stdout.write(f"{finding}\n")
    counts = ", ".join(f"{count} {what}" for what, count in report.counts.items())
    faults = len(report.faults)
    sys.stdout.write(f"{counts}: {faults} faults, {len(report.findings) - faults} leftovers\n")
    if options.repair and faults:
        for line in check.repair(config.root, report):
            sys.stdout.write(f"{line}\n")
        faults = len(check.check(config.root, config.state).faults)
    return 1 if faults else 0


def _serve(options: argparse.Namespace) -> int:
    config = _load(options)
    os.umask(0o022)
    from orlop.containerd.plugins.runtime.former import end_former_zygote
    from orlop.containerd.plugins.runtime.zygote import spawn

    lock = _prepare(config)
    _add_programs(config.opt_dir)
    end_former_zygote(config.state)
    zygote = spawn()  # it imports what it needs while this process does the same
    try:
        import asyncio
        import gc

        from orlop.containerd.server import run

        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not walk it again and again
        asyncio.run(run(config, __version__, REVISION, zygote))
    finally:
        os.close(lock)
    return 0


def _prepare(config: Config) -> int:
    from orlop.containerd.sockets import prepare_directories

    _set_up_logging(config.level, config.format)
    _set_oom_score(config.oom_score)
    return prepare_directories(config)


def _add_programs(directory: str) -> None:
    """Let shims and runtimes be found that `ctr install` has brought, before any other; by what we start, too."""
    for name, place in (("PATH", "bin"), ("LD_LIBRARY_PATH", "lib")):
        before = os.environ.get(name)
        path = os.path.join(directory, place)
        os.makedirs(path, 0o711, exist_ok=True)
        os.environ[name] = f"{path}:{before}" if before else path


_LINE = 'time="%(asctime)sZ" level=%(levelname)s module=%(name)s msg="%(message)s"'


def _set_up_logging(level: str, format: str) -> None:
    import logging
    import time

    logging.Formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    if format == "json":
        from orlop.containerd.json_log import JsonFormatter

        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter(_LINE, "%FT%T"))
    numbers = {"trace": 5, "warn": logging.WARNING, "fatal": logging.CRITICAL, "panic": logging.CRITICAL}
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(numbers.get(level, logging.getLevelName(level.upper())))
    for noisy in ("asyncio", "grpc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)  # their debug lines tell of nothing but themselves
    for number, name in ((10, "debug"), (20, "info"), (30, "warning"), (40, "error"), (50, "fatal")):
        logging.addLevelName(number, name)


def _set_oom_score(score: int) -> None:
    if not score:
        return
    import logging

    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except PermissionError:
        # A negative score wants CAP_SYS_RESOURCE, which containers and many CI machines do not have.
        logging.getLogger("containerd").warning("oom_score %d is refused: going on without", score)


def _publish(options: argparse.Namespace) -> int:
    """What a shim without ttrpc runs for each event."""
    import grpc
    from google.protobuf.any_pb2 import Any

    from orlop.api.events_service_pb2 import PublishRequest
    from orlop.api.events_service_pb2_grpc import EventsStub

    config = _load(options)
    event = Any.FromString(sys.stdin.buffer.read())
    arguments = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel("unix:" + config.address, options=arguments) as channel:
        metadata = (("containerd-namespace", options.namespace),)
        try:
            EventsStub(channel).Publish(
                PublishRequest(topic=options.topic, event=event), metadata=metadata, timeout=10
            )
        except grpc.RpcError as error:
            sys.stderr.write(f"orlop-containerd: publish: {error.details()}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
