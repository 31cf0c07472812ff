# SPDX-License-Identifier: Apache-2.0
"""`hosts.toml`: an administrator's mirrors of one registry, as containerd reads them.

server = "https://registry-1.docker.io"       # the registry itself, asked last; the host's own name by default
[host."https://mirror.example/hub"]           # asked in the order of the file
  capabilities = ["pull", "resolve"]          # of pull, resolve, push; all by default
  ca = "mirror.pem"                           # one path or several, relative to the file
  client = [["client.cert", "client.key"]]
  skip_verify = true
  override_path = true                        # the address is the API's whole path: no /v2 is put after it
  dial_timeout = "5s"
  [host."https://mirror.example/hub".header]
    x-team = "orlop"
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
from yarl import URL

from orlop.errdefs import InvalidArgumentError
from orlop.registry.endpoint import CAPABILITIES, CONNECT_TIMEOUT, Certificates, Endpoint

FILE = "hosts.toml"
SIZE_MAX = 1 << 20  # bytes

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class HostTable(msgspec.Struct, kw_only=True):
    """What the file says of one host."""

    capabilities: list[str] = []
    ca: str | list[str] = []
    client: str | list[str | list[str]] = []
    skip_verify: bool = False
    header: dict[str, str | list[str]] = {}
    override_path: bool = False
    dial_timeout: str = ""


class HostsFile(HostTable, kw_only=True):
    """The whole file; keys outside of `host` are about `server`."""

    server: str = ""
    host: dict[str, HostTable] = {}


def host_directory(root: str, host: str) -> Path | None:
    """The directory of a registry below `root`: `name:port`, `name_port_` or `_default`; None if there is none."""
    name, colon, port = host.rpartition(":")
    names = [f"{name}_{port}_", host] if colon and port.isdigit() else [host]
    for candidate in (*names, "_default"):
        directory = Path(root, candidate)
        if directory.is_dir():
            return directory
    return None


def read_hosts(directory: Path, registry: str, itself: Endpoint) -> list[Endpoint] | None:
    """The endpoints for a registry in the order in which they are asked; None where the directory has no file.

    `itself` is how the registry is reached where the file names no server.
    Raises InvalidArgumentError naming file and key.
    """
    path = directory / FILE
    try:
        with open(path, "rb") as file:
            raw = file.read(SIZE_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path}: {error.strerror}") from None
    if len(raw) > SIZE_MAX:
        raise InvalidArgumentError(f"{path}: larger than {SIZE_MAX} bytes")
    try:
        found = msgspec.convert(tomllib.loads(raw.decode()), HostsFile)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise InvalidArgumentError(f"{path}: {error}") from None
    mirrors = []
    for address, table in found.host.items():
        mirror = _at(path, address, table, registry)._replace(mirror=True)
        mirrors.append(_with_table(mirror, f'{path}: host "{address}"', path, table))
    server = _at(path, found.server, found, registry) if found.server else itself
    return [*mirrors, _with_table(server, f"{path}: server", path, found)]


def _at(path: Path, address: str, table: HostTable, registry: str) -> Endpoint:
    """The endpoint at an address of the file."""
    url = _url(path, address)
    return Endpoint(
        host=url.authority,
        schemes=(url.scheme,),
        insecure=url.scheme == "http",
        prefix=_prefix(url, table.override_path),
        namespace=registry if url.authority != registry else "",
    )


def _with_table(endpoint: Endpoint, where: str, path: Path, table: HostTable) -> Endpoint:
    """What the file says besides the address."""
    authorities = () if table.skip_verify else _authorities(path.parent, table.ca)
    return endpoint._replace(
        insecure=endpoint.insecure or table.skip_verify,
        capabilities=_capabilities(where, table.capabilities),
        headers=(*endpoint.headers, *_headers(where, table.header)),
        certificates=Certificates(authorities, _clients(where, path.parent, table.client)),
        connect_timeout=_duration(where, table.dial_timeout),
    )


def _url(path: Path, address: str) -> URL:
    try:
        url = URL(address if "://" in address else f"https://{address}", encoded=True)
        valid = url.scheme in ("http", "https") and url.host and not (url.user or url.query_string or url.fragment)
    except ValueError:
        valid = False
    if not valid:
        raise InvalidArgumentError(f"{path}: {address!r}: expected http(s)://host[:port][/path]")
    return url


def _prefix(url: URL, override: bool) -> str:
    path = url.raw_path.rstrip("/")
    return path if override or path.endswith("/v2") else f"{path}/v2"


def _capabilities(where: str, names: list[str]) -> frozenset[str]:
    for name in names:
        if name not in CAPABILITIES:
            raise InvalidArgumentError(f"{where}: capabilities: expected pull, resolve or push, got {name!r}")
    return frozenset(names) or CAPABILITIES


def _headers(where: str, table: dict[str, str | list[str]]) -> tuple[tuple[str, str], ...]:
    found = []
    for name, value in table.items():
        for one in [value] if isinstance(value, str) else value:
            if re.search(r"[\r\n\0]", name + one) or not name:
                raise InvalidArgumentError(f"{where}: header {name!r}: not a header of HTTP")
            found.append((name, one))
    return tuple(found)


def _authorities(directory: Path, value: str | list[str]) -> tuple[str, ...]:
    return tuple(str(directory / one) for one in ([value] if isinstance(value, str) else value))


def _clients(where: str, directory: Path, value: str | list[Any]) -> tuple[tuple[str, str], ...]:
    pairs = []
    for one in [value] if isinstance(value, str) else value:
        names = [one] if isinstance(one, str) else one
        if not 1 <= len(names) <= 2:
            raise InvalidArgumentError(f"{where}: client: expected a certificate and its key, got {names!r}")
        key = str(directory / names[1]) if len(names) == 2 and names[1] else ""
        pairs.append((str(directory / names[0]), key))
    return tuple(pairs)


def _duration(where: str, text: str) -> float:
    if not text:
        return CONNECT_TIMEOUT
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))
    if not re.fullmatch(rf"(?:{_DURATION.pattern})+", text) or not seconds:
        raise InvalidArgumentError(f"{where}: dial_timeout: expected a duration like 5s, got {text!r}")
    return seconds
