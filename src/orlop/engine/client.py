# SPDX-License-Identifier: Apache-2.0
"""A client of the Engine API: finds the daemon, negotiates the version, turns error answers into exceptions.

Blocking and small, for the command line and for scripts:

    client = Client("unix:///run/orlop/docker.sock")
    for container in client.get("/containers/json"):
        print(container["Names"])
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orlop.engine.http import Body, Connection, ProtocolError, Response

if TYPE_CHECKING:
    from orlop.engine.tls import Tls

DEFAULT_HOST = "unix:///run/orlop/docker.sock"
MAX_API_VERSION = (1, 56)
_MIN_API_VERSION = (1, 24)

Query = Mapping[str, str | int | bool | list[str] | None]


class EngineError(Exception):
    """The daemon answered with an error; `status` is the HTTP status, the text is the daemon's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class ConnectionFailedError(Exception):
    """The daemon can't be reached."""


class Client:
    """Requests to one daemon. `host` is `unix:///path` or `tcp://host:port`, with `tls` over TLS.

    `context` is the name under which the command line knows the daemon.
    """

    def __init__(self, host: str | None = None, *, context: str = "default", tls: "Tls | None" = None) -> None:
        self.host = host or os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        self.context = context
        self._tls = tls
        self._idle: Connection | None = None
        self._version: str | None = os.environ.get("DOCKER_API_VERSION") or None

    @property
    def api_version(self) -> str:
        """The version that requests use: the lower of ours and the daemon's."""
        if self._version is None:
            self._version = self._negotiate()
        return self._version

    def close(self) -> None:
        """Close the kept connection; the next request opens another."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def ping(self) -> dict[str, str]:
        """The headers of /_ping, names in lower case."""
        return self._send("HEAD", "/_ping").headers

    def get(self, path: str, query: Query | None = None) -> Any:
        """GET and parse the JSON of the answer."""
        return self._json(self.request("GET", path, query))

    def post(self, path: str, query: Query | None = None, body: Any = None) -> Any:
        """POST a JSON body and parse the JSON of the answer (None if it has no body)."""
        return self._json(self.request("POST", path, query, body))

    def delete(self, path: str, query: Query | None = None) -> Any:
        """DELETE and parse the JSON of the answer (None if it has no body)."""
        return self._json(self.request("DELETE", path, query))

    def request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request on the kept connection; the caller must read the whole answer.

        Raises EngineError for an error answer, ConnectionFailedError where nobody answers.
        """
        return self._checked(self._send(method, self._target(path, query), body, headers))

    def stream(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """As `request`, on a connection of its own: for answers that arrive over time, and long bodies.

        The body may be an iterator of bytes, which is sent as it is made.
        """
        connection = self._connect()
        payload, all_headers = self._encode(body, headers)
        try:
            return self._checked(connection.request(method, self._target(path, query), all_headers, payload))
        except (OSError, ProtocolError) as error:
            raise self._failure(error) from None

    def begin(self, method: str, path: str, query: Query | None = None) -> Connection:
        """Send a request on a connection of its own and leave its answer to the caller (`finish`)."""
        connection = self._connect()
        payload, headers = self._encode(None, None)
        connection.send(method, self._target(path, query), headers, payload)
        return connection

    def finish(self, connection: Connection, method: str) -> Any:
        """The JSON of the answer to a request that `begin` sent."""
        try:
            return self._json(self._checked(connection.response(method)))
        except (OSError, ProtocolError) as error:
            raise self._failure(error) from None

    def hijack(self, path: str, query: Query | None = None, body: Any = None) -> tuple[socket.socket, bytes, str]:
        """POST with an upgrade to a raw stream: the socket, bytes already read, and the content type."""
        response = self.stream("POST", path, query, body, {"Connection": "Upgrade", "Upgrade": "tcp"})
        sock, rest = response.hijacked()
        return sock, rest, response.headers.get("content-type", "")

    def dial(self) -> socket.socket:
        """A new connection on which nothing has been said. Raises ConnectionFailedError."""
        return self._connect().detach()[0]

    def _target(self, path: str, query: Query | None) -> str:
        target = f"/v{self.api_version}{path}"
        if query:
            pairs = [
                f"{key}={quote(_plain(item))}"
                for key, value in query.items()
                for item in (value if isinstance(value, list) else [value])
                if item is not None
            ]
            target += "?" + "&".join(pairs) if pairs else ""
        return target

    def _negotiate(self) -> str:
        theirs = _parse_version(self.ping().get("api-version", ""))
        version = min(MAX_API_VERSION, theirs) if theirs >= _MIN_API_VERSION else MAX_API_VERSION
        return f"{version[0]}.{version[1]}"

    def _send(
        self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        payload, all_headers = self._encode(body, headers)
        try:
            if self._idle is not None:
                try:
                    return self._idle.request(method, target, all_headers, payload)
                except (BrokenPipeError, ConnectionResetError, ProtocolError):
                    self._idle.close()
            self._idle = self._connect()
            return self._idle.request(method, target, all_headers, payload)
        except (OSError, ProtocolError) as error:
            raise self._failure(error) from None

    def _encode(self, body: Any, headers: Mapping[str, str] | None) -> tuple[Body, dict[str, str]]:
        result = {"Host": "api.moby.localhost", "User-Agent": "orlop"}
        payload: Body
        if body is None or isinstance(body, (bytes, Iterator)):
            payload = body
        else:
            payload = json.dumps(body).encode()
            result["Content-Type"] = "application/json"
        return payload, {**result, **(headers or {})}

    def _checked(self, response: Response) -> Response:
        if response.status < 400:
            return response
        raw = response.read()
        try:
            message = json.loads(raw)["message"]
        except (ValueError, KeyError, TypeError):
            message = raw.decode(errors="replace").strip() or f"HTTP status {response.status}"
        raise EngineError(message, response.status)

    def _json(self, response: Response) -> Any:
        try:
            raw = response.read()
        except (OSError, ProtocolError) as error:
            raise self._failure(error) from None
        return json.loads(raw) if raw.strip() else None

    def _connect(self) -> Connection:
        scheme, _, address = self.host.partition("://")
        try:
            if scheme == "unix":
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    sock.connect(address)
                except OSError:
                    sock.close()
                    raise
            elif scheme == "tcp":
                name, _, port = address.rstrip("/").rpartition(":")
                sock = socket.create_connection((name.strip("[]"), int(port)))
                if self._tls is not None:
                    from orlop.engine.tls import encrypted

                    sock = encrypted(sock, name.strip("[]"), self._tls)
            else:
                raise ConnectionFailedError(
                    f"invalid host {self.host!r}: expected unix:///path or tcp://host:port"
                )
        except OSError as error:
            raise self._failure(error) from None
        return Connection(sock)

    def _failure(self, error: Exception) -> ConnectionFailedError:
        if isinstance(error, PermissionError):
            return ConnectionFailedError(
                f"permission denied while trying to connect to the Docker daemon socket at {self.host}"
            )
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            return ConnectionFailedError(
                f"Cannot connect to the Docker daemon at {self.host}. Is the docker daemon running?"
            )
        return ConnectionFailedError(f"error during connect: {self.host}: {error}")


def quote(text: str) -> str:
    """Percent-encode for a URL's path segment or query value."""
    safe = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
    return "".join(chr(byte) if byte in safe else f"%{byte:02X}" for byte in text.encode())


def _plain(value: str | int | bool | None) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value)


def _parse_version(text: str) -> tuple[int, int]:
    try:
        major, minor = text.split(".")
        return int(major), int(minor)
    except ValueError:
        return 0, 0
