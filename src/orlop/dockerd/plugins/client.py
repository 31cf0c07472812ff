# SPDX-License-Identifier: Apache-2.0
"""Calls a plugin: one POST with JSON a call, JSON or an error back. All calls block."""

import http.client
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from orlop.dockerd.plugins.discovery import Discovery, Place
from orlop.errdefs import InternalError, NotFoundError, UnavailableError
from orlop.tls import client_context

T = TypeVar("T")

_MEDIA_TYPE = "application/vnd.docker.plugins.v1.2+json"
_LONGEST_ANSWER = 16 << 20
CALL_SECONDS = 120.0


class _Manifest(msgspec.Struct):
    implements: list[str] = msgspec.field(default_factory=list, name="Implements")


class _Failure(msgspec.Struct):
    err: str = msgspec.field(default="", name="Err")


class PluginClient:
    """One plugin. A connection a call: plugins are asked seldom, and may be started anew in between."""

    def __init__(self, place: Place) -> None:
        self.name = place.name
        self._place = place

    def activate(self) -> list[str]:
        """What it implements: `VolumeDriver`, `authz`. Raises UnavailableError, InternalError."""
        return self.call("Plugin.Activate", None, _Manifest).implements

    def call(self, method: str, body: object, answer: type[T], seconds: float = CALL_SECONDS) -> T:
        """Raises UnavailableError where nobody answers, and InternalError with the plugin's own words."""
        status, data = self._post(method, b"" if body is None else msgspec.json.encode(body), seconds)
        if status != 200:
            raise InternalError(f"{method}: {_words(data) or f'status {status}'}")
        try:
            return msgspec.json.decode(data or b"{}", type=answer)
        except msgspec.DecodeError as error:
            raise InternalError(f"{method}: plugin {self.name} answers what is no answer: {error}") from None

    def _post(self, method: str, body: bytes, seconds: float) -> tuple[int, bytes]:
        connection = self._connect(seconds)
        try:
            headers = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
            connection.request("POST", f"/{method}", body, headers)
            answer = connection.getresponse()
            data = answer.read(_LONGEST_ANSWER + 1)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or "no answer in time"
            raise UnavailableError(
                f'plugin "{self.name}" at {self._place.address} does not answer {method}: {reason}'
            ) from None
        finally:
            connection.close()
        if len(data) > _LONGEST_ANSWER:
            raise InternalError(f"{method}: plugin {self.name} answers more than {_LONGEST_ANSWER} bytes")
        return answer.status, data

    def _connect(self, seconds: float) -> http.client.HTTPConnection:
        url = urlsplit(self._place.address)
        if url.scheme == "unix":
            return _UnixConnection(url.path, seconds)
        host, port = url.hostname or "localhost", url.port
        if url.scheme == "https" or (url.scheme == "tcp" and self._place.tls is not None):
            return http.client.HTTPSConnection(host, port, timeout=seconds, context=self._tls())
        return http.client.HTTPConnection(host, port, timeout=seconds)

    def _tls(self) -> ssl.SSLContext:
        files = self._place.tls
        context = client_context()
        try:
            if files is not None and files.ca_file:
                context.load_verify_locations(files.ca_file)
            if files is not None and files.cert_file:
                context.load_cert_chain(files.cert_file, files.key_file)
        except OSError as error:
            raise UnavailableError(f"plugin {self.name}: cannot use its TLS files: {error}") from None
        if files is not None and (files.insecure or not files.ca_file):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("plugin.moby.localhost", timeout=seconds)
        self._path = path
        self._seconds = seconds

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._seconds)
        self.sock.connect(self._path)


class Plugins:
    """Plugins by name and kind. What a plugin implements is asked once, as long as it is where it was."""

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self._active: dict[Place, list[str]] = {}

    def find(self, name: str) -> Place:
        """Where a plugin is. Raises NotFoundError, InvalidArgumentError."""
        return self._discovery.find(name)

    def get(self, name: str, kind: str) -> PluginClient:
        """A plugin that implements `kind`. Raises NotFoundError, UnavailableError, InternalError."""
        place = self._discovery.find(name)
        client = PluginClient(place)
        if place not in self._active:
            self._active[place] = client.activate()
        if kind not in self._active[place]:
            raise NotFoundError(f'plugin "{name}" does not implement {kind}')
        return client

    def of_kind(self, kind: str, report: Callable[[str], Any]) -> list[PluginClient]:
        """Every plugin that is there and implements `kind`; what is wrong with others is reported."""
        found = []
        for name in self._discovery.names():
            try:
                found.append(self.get(name, kind))
            except NotFoundError:
                continue
            except (UnavailableError, InternalError) as error:
                report(str(error))
        return found


def _words(data: bytes) -> str:
    try:
        failure = msgspec.json.decode(data, type=_Failure)
    except msgspec.DecodeError:
        return data.decode("utf-8", "replace").strip()
    return failure.err or data.decode("utf-8", "replace").strip()
