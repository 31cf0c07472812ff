# SPDX-License-Identifier: Apache-2.0
"""orlopd: read the settings, listen, serve until SIGTERM. Containers go on without it."""

import asyncio
import contextlib
import fcntl
import gc
import itertools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orlop.dockerd import userns
from orlop.dockerd.config import Config
from orlop.dockerd.config_file import load
from orlop.dockerd.flags import Options, parse_flags
from orlop.errdefs import OrlopError

if TYPE_CHECKING:
    from orlop.dockerd.api.server import Listener

log = logging.getLogger("orlop.dockerd")

_IMPATIENT = 3
"""So many times SIGTERM or SIGINT end the daemon without waiting for anything, as Docker's."""
_CLOSING_SECONDS = 20.0
"""For what is closed after the last request, on a slow machine."""
_ANY_USEC = 1 << 63
"""For service managers: without an end."""
_FROM_MANAGER = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon; returns the exit status. One line on standard error says what is wrong."""
    try:
        options = parse_flags(sys.argv[1:] if argv is None else argv)
        config = load(options)
        if options.validate:
            sys.stderr.write("configuration OK\n")
            return 0
        with contextlib.ExitStack() as held:
            _prepare(config, held)
            return asyncio.run(_run(config, options))
    except OrlopError as error:
        sys.stderr.write(f"orlopd: {error}\n")
    except OSError as error:
        sys.stderr.write(f"orlopd: {error.filename or ''}: {error.strerror}\n")
    return 1


def _prepare(config: Config, held: contextlib.ExitStack) -> None:
    """Logging, directories, the lock that keeps a second daemon away from them, the pidfile."""
    os.umask(0o022)
    _set_up_logging(config)
    _set_proxies(config)
    Path(config.data_root).mkdir(mode=0o700, parents=True, exist_ok=True)
    if (remap := userns.resolve(config.userns_remap)) is not None:
        # As in Docker each mapping has its own containers. Root's: the containers' root must not change it.
        config.data_root = remap.directory(config.data_root)
        Path(config.data_root).mkdir(mode=0o710, exist_ok=True)
        os.chown(config.data_root, 0, remap.root[1])
    Path(config.exec_root).mkdir(mode=0o711, parents=True, exist_ok=True)
    for name in ("containers", "volumes"):
        Path(config.data_root, name).mkdir(mode=0o710, exist_ok=True)
    lock = os.open(f"{config.data_root}/dockerd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    held.callback(os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OrlopError(f"another orlopd uses {config.data_root}") from None
    pidfile = Path(config.pidfile or f"{config.exec_root}/orlopd.pid")
    pidfile.write_text(f"{os.getpid()}\n")
    held.callback(pidfile.unlink, missing_ok=True)


async def _run(config: Config, options: Options) -> int:
    from orlop.dockerd.listeners import hosts_of, open_listeners

    # Descriptors and service manager are this process's: what it starts (orlop-netd, ps) must not inherit them.
    environment = {name: os.environ.pop(name, "") for name in _FROM_MANAGER}
    environment["DOCKER_CERT_PATH"] = os.environ.get("DOCKER_CERT_PATH", "")
    manager = ServiceManager(environment["NOTIFY_SOCKET"])
    listeners = open_listeners(config, environment)
    try:
        await _serve(config, options, listeners, manager)
    finally:
        for listener in listeners:
            listener.socket.close()
        for scheme, address in hosts_of(config):
            if scheme == "unix":  # our own; those that were handed down stay
                Path(address).unlink(missing_ok=True)
    return 0


async def _serve(
    config: Config, options: Options, listeners: "Sequence[Listener]", manager: "ServiceManager"
) -> None:
    from orlop.dockerd.listeners import hosts_of
    from orlop.dockerd.wiring import build

    parts = build(config, options)
    background: asyncio.Future[None] | None = None
    try:
        await parts.start()
        background = asyncio.ensure_future(parts.run())
        # Clients wait in the socket's backlog meanwhile: the first answer must not show yesterday's state.
        await parts.settled()
        await parts.server.serve(listeners)
        # What is loaded by now stays: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        manager.tell("READY=1")
        log.info("API listens on %s", ", ".join(f"{scheme}://{address}" for scheme, address in hosts_of(config)))

        reloads: set[asyncio.Task[None]] = set()

        async def reload() -> None:
            manager.tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                await parts.reload()
                _set_level(config)
            except OrlopError as error:
                log.error("SIGHUP: error reloading configuration, the old one stays: %s", error)
            manager.tell("READY=1")

        def begin_reload() -> None:
            reloads.add(task := asyncio.ensure_future(reload()))
            task.add_done_callback(reloads.discard)

        await _until_told(background, begin_reload)
        grace = _grace(config)
        manager.tell(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={_stop_usec(grace)}")
        await parts.server.close(grace)
    finally:
        if background is not None:
            background.cancel()
            await asyncio.wait({background})
        await parts.close()


async def _until_told(background: "asyncio.Future[None]", reload: Callable[[], None]) -> None:
    """Wait for SIGTERM or SIGINT; a background task that ends is a defect, which ends the daemon."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()
    times = itertools.count(1)

    def stop(number: int) -> None:
        if next(times) == _IMPATIENT:
            log.warning("told to stop for the third time: ending at once")
            os._exit(128 + number)
        if not told.done():
            told.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await asyncio.wait({told, background}, return_when=asyncio.FIRST_COMPLETED)
    if background.done():
        background.result()


def _grace(config: Config) -> float | None:
    """Seconds for requests in progress, None: all that they need. Streams (logs, events) are cut at once."""
    return None if config.shutdown_timeout < 0 else float(config.shutdown_timeout)


def _stop_usec(grace: float | None) -> int:
    """What a service manager shall wait for the end: the requests' time, and what is to be closed after them."""
    return _ANY_USEC if grace is None else round((grace + _CLOSING_SECONDS) * 1e6)


def _set_up_logging(config: Config) -> None:
    if config.log_format == "json":
        form = '{"time":"%(asctime)sZ","level":"%(levelname)s","module":"%(name)s","msg":%(quoted)s}'
    else:
        form = "time=%(asctime)sZ level=%(levelname)s module=%(name)s msg=%(quoted)s"
    formatter = _Formatter(form, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    _set_level(config)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)


def _set_level(config: Config) -> None:
    levels = {"warn": "WARNING", "fatal": "CRITICAL"}
    name = "DEBUG" if config.debug else levels.get(config.log_level, config.log_level.upper())
    logging.getLogger("orlop").setLevel(name)


def _set_proxies(config: Config) -> None:
    """Settings win over the environment, where the client of registries and GET /info find them."""
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        if value := getattr(config.proxies, name):
            os.environ[name] = os.environ[name.upper()] = value


class _Formatter(logging.Formatter):
    """One line a record, its message quoted, so that no input can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
            record.exc_info = None
        record.exc_text = None
        record.quoted = json.dumps(message, ensure_ascii=False)
        return super().format(record)


class ServiceManager:
    """Who started the daemon and wants to know how it is, by sd_notify(3); nobody if `address` is empty."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def tell(self, state: str) -> None:
        """Send a state; that nobody listens is logged."""
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            try:
                sender.sendto(state.encode(), self._address)
            except OSError as error:
                log.warning("NOTIFY_SOCKET: %s", error)


if __name__ == "__main__":
    sys.exit(main())
