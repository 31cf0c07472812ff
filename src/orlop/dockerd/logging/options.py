# SPDX-License-Identifier: Apache-2.0
"""Log drivers and their options, checked with Docker's words."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from orlop.dockerd.config import parse_size
from orlop.engine.durations import parse_duration
from orlop.engine.types import LogConfig
from orlop.errdefs import InvalidArgumentError

Options = Mapping[str, str]

COMMON = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
_ROTATION = frozenset({"max-size", "max-file", "compress"})
_MODES = frozenset({"mode", "max-buffer-size"})
_CACHE = frozenset({"cache-disabled", *(f"cache-{name}" for name in COMMON | _ROTATION)})
"""Options of the copy that `docker logs` reads where the driver sends the log away."""

_OURS = frozenset({"keep"})
"""Not in Docker: how long the log outlives its container."""

_JSON_SIZE, _JSON_FILES = 100_000_000, 5
"""Docker's json-file grows without limit unless told otherwise, and fills disks; `max-size=-1` does so here."""
_LOCAL_SIZE, _LOCAL_FILES = 20_000_000, 5


class Rotation(NamedTuple):
    """`size` in bytes (0: without limit), `files` kept, `compress` all but the latest."""

    size: int
    files: int
    compress: bool


def check_log_config(config: LogConfig) -> None:
    """Raise InvalidArgumentError for a log driver or an option of it that is not there."""
    options = config.config
    if keep_for(config) and not readable(config):
        raise InvalidArgumentError(f"log opt 'keep': with the log driver {config.type} there is no log to be kept")
    if config.type == "none":
        return
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgumentError(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidArgumentError("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        parse_size(options["max-buffer-size"], "option max-buffer-size")
    if options.get("cache-disabled"):
        boolean(options["cache-disabled"], "cache-disabled")
    if config.type not in _CHECKS:
        raise InvalidArgumentError(f"logger: no log driver named '{config.type}' is registered")
    own = {key: value for key, value in options.items() if key not in _MODES | _CACHE | _OURS}
    known, check = _CHECKS[config.type]
    for key in own:
        if key not in known | COMMON:
            name = f"log driver {config.type}" if config.type == "local" else f"{config.type} log driver"
            quoted = f'"{key}"' if config.type == "gelf" else f"'{key}'"
            raise InvalidArgumentError(f"unknown log opt {quoted} for {name}")
    for key in ("labels-regex", "env-regex"):
        _check_regex(own.get(key, ""))
    check(own)
    if sends_away(config):
        rotation(config)


def with_defaults(asked: LogConfig, defaults: LogConfig) -> LogConfig:
    """A container's driver and options, where it leaves them to the daemon's; those of its copy in any case."""
    driver = asked.type or defaults.type
    given = {key: value for key, value in defaults.config.items() if driver == defaults.type or key in _CACHE}
    return LogConfig(type=driver, config={**given, **asked.config})


def sends_away(config: LogConfig) -> bool:
    """Whether the driver is one that brings the log elsewhere."""
    return config.type in ("syslog", "journald", "fluentd", "gelf")


def readable(config: LogConfig) -> bool:
    """Whether `docker logs` can show it: files can be read, and what is sent away is also kept here by default."""
    if config.type == "none":
        return False
    return not (sends_away(config) and cache_disabled(config))


def keep_for(config: LogConfig) -> int:
    """Nanoseconds for which the log outlives its container. Raises InvalidArgumentError."""
    text = config.config.get("keep", "0")
    try:
        return parse_duration(text)
    except ValueError:
        raise InvalidArgumentError(f"invalid value for keep: {text}: expected a duration such as 72h") from None


def cache_disabled(config: LogConfig) -> bool:
    """Whether what has been sent away is not to be kept."""
    return boolean(config.config.get("cache-disabled") or "false", "cache-disabled")


def rotation(config: LogConfig) -> Rotation:
    """How the file of a log (or the copy of one that is sent away) is rotated. Raises InvalidArgumentError."""
    if config.type == "json-file":
        return _json_rotation(config.config)
    if config.type == "local":
        return _local_rotation(config.config)
    kept = {key.removeprefix("cache-"): value for key, value in config.config.items() if key.startswith("cache-")}
    return _local_rotation(kept)


def boolean(text: str, name: str) -> bool:
    """As Go reads one. Raises InvalidArgumentError."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidArgumentError(f"invalid value for option {name}: {text}")


def human_size(text: str, name: str) -> int:
    """`10m` in units of 1000, as Docker reads sizes of logs. Raises InvalidArgumentError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", text.strip().lower())
    if not found:
        raise InvalidArgumentError(f"invalid value for {name}: {text}: invalid size: '{text}'")
    return int(float(found[1]) * 1000 ** " kmgtp".index(found[2] or " "))


def _json_rotation(options: Options) -> Rotation:
    if not options.keys() & {"max-size", "max-file"}:
        compress = "compress" in options and boolean(options["compress"], "compress")
        return Rotation(_JSON_SIZE, _JSON_FILES, compress)
    size = 0
    if options.get("max-size", "-1") != "-1":
        size = human_size(options["max-size"], "max-size")
        if size <= 0:
            raise InvalidArgumentError("max-size must be a positive number")
    files = _number(options, "max-file", 1)
    if files < 1:
        raise InvalidArgumentError("max-file cannot be less than 1")
    compress = "compress" in options and boolean(options["compress"], "compress")
    if compress and (files < 2 or not size):
        raise InvalidArgumentError("compress cannot be true when max-file is less than 2 or max-size is not set")
    return Rotation(size, files, compress)


def _local_rotation(options: Options) -> Rotation:
    size = human_size(options["max-size"], "max-size") if "max-size" in options else _LOCAL_SIZE
    files = _number(options, "max-file", _LOCAL_FILES)
    if files < 0:
        raise InvalidArgumentError("max-file must not be negative")
    compress = boolean(options.get("compress", "true"), "compress")
    if compress and files <= 1:
        raise InvalidArgumentError("compression cannot be enabled when max file count is 1")
    return Rotation(size, max(files, 1), compress)


def _number(options: Options, name: str, default: int) -> int:
    try:
        return int(options.get(name, default))
    except ValueError:
        raise InvalidArgumentError(f"invalid value for {name}: {options[name]!r} is no number") from None


def _check_regex(text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise InvalidArgumentError(f"error parsing regexp: {error}: {text!r}") from None


def _check_syslog(options: Options) -> None:
    from orlop.dockerd.logging.syslog import settings

    settings(options)


def _check_fluentd(options: Options) -> None:
    from orlop.dockerd.logging.fluentd import settings

    settings(options)


def _check_gelf(options: Options) -> None:
    from orlop.dockerd.logging.gelf import settings

    settings(options)


def _check_nothing(options: Options) -> None:
    """journald has no options of its own."""


_CHECKS: dict[str, tuple[frozenset[str], Callable[[Options], object]]] = {
    "fluentd": (
        frozenset(
            f"fluentd-{name}"
            for name in (
                "address",
                "async",
                "async-reconnect-interval",
                "buffer-limit",
                "max-retries",
                "read-timeout",
                "request-ack",
                "retry-wait",
                "sub-second-precision",
                "write-timeout",
            )
        ),
        _check_fluentd,
    ),
    "gelf": (
        frozenset(
            f"gelf-{name}"
            for name in (
                "address",
                "compression-level",
                "compression-type",
                "tcp-max-reconnect",
                "tcp-reconnect-delay",
            )
        ),
        _check_gelf,
    ),
    "journald": (frozenset(), _check_nothing),
    "json-file": (_ROTATION, _json_rotation),
    "local": (_ROTATION, _local_rotation),
    "syslog": (
        frozenset(
            f"syslog-{name}"
            for name in ("address", "facility", "format", "tls-ca-cert", "tls-cert", "tls-key", "tls-skip-verify")
        ),
        _check_syslog,
    ),
}
DRIVERS = (*_CHECKS, "none")
