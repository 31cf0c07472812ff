# SPDX-License-Identifier: Apache-2.0
"""Finds plugins by name: a socket in a runtime directory, or a file that tells where the plugin listens."""

import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from orlop.errdefs import InvalidArgumentError, NotFoundError

RUNTIME_DIRECTORY = "/run/docker/plugins"
SPEC_DIRECTORIES = ("/etc/docker/plugins", "/usr/lib/docker/plugins")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.:@/-]*")


class TlsFiles(msgspec.Struct, kw_only=True):
    """`TLSConfig` of a .json file."""

    ca_file: str = msgspec.field(default="", name="CAFile")
    cert_file: str = msgspec.field(default="", name="CertFile")
    key_file: str = msgspec.field(default="", name="KeyFile")
    insecure: bool = msgspec.field(default=False, name="InsecureSkipVerify")


class _Spec(msgspec.Struct, kw_only=True):
    addr: str = msgspec.field(name="Addr")
    tls: TlsFiles | None = msgspec.field(default=None, name="TLSConfig")


class Place(NamedTuple):
    """Where a plugin listens: `unix:///path`, `tcp://host:port`, `http://…` or `https://…`."""

    name: str
    address: str
    tls: TlsFiles | None = None


class Discovery:
    """Looks in directories. A socket wins over a file, and an earlier directory over a later one."""

    def __init__(self, sockets: Sequence[str], specs: Sequence[str]) -> None:
        self._sockets = [Path(directory) for directory in sockets]
        self._specs = [Path(directory) for directory in specs]

    def find(self, name: str) -> Place:
        """Raises NotFoundError, and InvalidArgumentError for a file that cannot be read."""
        if _NAME.fullmatch(name) and ".." not in name and "/" not in name:
            for directory in self._sockets:
                for path in (directory / f"{name}.sock", directory / name / f"{name}.sock"):
                    if _is_socket(path):
                        return Place(name, f"unix://{path}")
            for directory in self._specs:
                for suffix in ("spec", "json"):
                    for path in (directory / f"{name}.{suffix}", directory / name / f"{name}.{suffix}"):
                        if path.is_file():
                            return _read(name, path)
        raise NotFoundError(f'plugin "{name}" not found')

    def names(self) -> list[str]:
        """Every plugin that is there."""
        return sorted({*self._socket_names(), *self._spec_names()})

    def _socket_names(self) -> Iterator[str]:
        for directory in filter(Path.is_dir, self._sockets):
            for path in directory.iterdir():
                if path.suffix == ".sock" and _is_socket(path):
                    yield path.stem
                elif _is_socket(path / f"{path.name}.sock"):
                    yield path.name

    def _spec_names(self) -> Iterator[str]:
        for directory in filter(Path.is_dir, self._specs):
            for path in directory.iterdir():
                if path.suffix in (".spec", ".json"):
                    yield path.stem
                elif any((path / f"{path.name}.{suffix}").is_file() for suffix in ("spec", "json")):
                    yield path.name


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _read(name: str, path: Path) -> Place:
    try:
        if path.suffix == ".spec":
            address, tls = path.read_text().strip(), None
        else:
            spec = msgspec.json.decode(path.read_bytes(), type=_Spec)
            address, tls = spec.addr, spec.tls
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        raise InvalidArgumentError(f"invalid plugin file {path}: {error}") from None
    if address.partition("://")[0] not in ("unix", "tcp", "http", "https"):
        raise InvalidArgumentError(
            f"invalid plugin file {path}: {address!r} is no unix://, tcp://, http:// or https://"
        )
    return Place(name, address, tls)
