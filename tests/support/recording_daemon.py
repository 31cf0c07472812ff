# SPDX-License-Identifier: Apache-2.0
"""A daemon that does nothing but note what a command asks of it: what each flag of the command line comes to."""

from __future__ import annotations

import json
import os
import socketserver
import sys
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

ID = "c" * 64
_STATE = {
    "Status": "running",
    "Running": True,
    "Paused": False,
    "Restarting": False,
    "Pid": 7,
    "ExitCode": 0,
    "StartedAt": "2001-01-01T00:00:00Z",
}
_PORTS = [{"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp", "IP": "192.0.2.1"}]
_CONTAINER = {
    "Id": ID,
    "Created": "2001-01-01T00:00:00Z",
    "Name": "/box",
    "State": _STATE,
    "Image": f"sha256:{'a' * 64}",
    "Config": {"Tty": False, "OpenStdin": True, "Image": "busybox", "Labels": {}},
    "HostConfig": {"LogConfig": {"Type": "json-file"}},
    "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "192.0.2.1", "HostPort": "8080"}]}, "Networks": {}},
    "SizeRw": 5,
    "SizeRootFs": 10,
    "Mounts": [],
}
_LISTED = {
    "Id": ID,
    "Names": ["/box"],
    "Image": "busybox",
    "ImageID": f"sha256:{'a' * 64}",
    "Command": "sleep " + "9" * 40,
    "Created": 978307200,
    "State": "running",
    "Status": "Up 7 seconds",
    "Ports": _PORTS,
    "Labels": {"a": "1"},
    "Mounts": [{"Type": "volume", "Name": "vol", "Destination": "/v"}],
    "NetworkSettings": {"Networks": {}},
    "HostConfig": {"NetworkMode": "bridge"},
    "SizeRw": 5,
    "SizeRootFs": 10,
}
_IMAGE = {
    "Id": f"sha256:{'a' * 64}",
    "RepoTags": ["busybox:latest"],
    "RepoDigests": [f"busybox@sha256:{'d' * 64}"],
    "Created": 978307200,
    "Size": 4261888,
    "SharedSize": -1,
    "Containers": -1,
    "Labels": {},
    "ParentId": "",
}
_HISTORY = [
    {
        "Id": f"sha256:{'a' * 64}",
        "Created": 978307200,
        "CreatedBy": "/bin/sh -c " + "x" * 60,
        "Size": 4261888,
        "Comment": "made",
        "Tags": ["busybox:latest"],
    },
]
_VOLUME = {
    "Name": "vol",
    "Driver": "local",
    "Mountpoint": "/v",
    "Scope": "local",
    "Labels": {"a": "1"},
    "Options": {},
}
_NETWORK = {
    "Id": "n" * 64,
    "Name": "net",
    "Driver": "bridge",
    "Scope": "local",
    "Labels": {},
    "Created": "2001-01-01T00:00:00Z",
    "IPAM": {"Driver": "default", "Config": []},
    "Containers": {},
    "Options": {},
}
_PLUGIN = {
    "Id": "p" * 64,
    "Name": "plug:latest",
    "Enabled": False,
    "PluginReference": "docker.io/library/plug:latest",
    "Config": {"Description": "A plugin " + "x" * 60, "Interface": {"Types": []}},
    "Settings": {},
}
_FOUND = [
    {"name": "busybox", "description": "d" * 60, "star_count": 7, "is_official": True, "is_automated": False}
]
_DF = {
    "LayersSize": 4261888,
    "Images": [{**_IMAGE, "SharedSize": 0, "Containers": 1}],
    "Containers": [_LISTED],
    "Volumes": [{**_VOLUME, "UsageData": {"Size": 10, "RefCount": 1}}],
    "BuildCache": [],
}
_STATS = {
    "id": ID,
    "name": "/box",
    "read": "2001-01-01T00:00:00Z",
    "preread": "2001-01-01T00:00:00Z",
    "cpu_stats": {},
    "memory_stats": {"usage": 1048576, "limit": 2097152},
    "pids_stats": {"current": 1},
    "networks": {},
    "blkio_stats": {"io_service_bytes_recursive": []},
    "precpu_stats": {},
}
_EVENT = {
    "Type": "container",
    "Action": "start",
    "Actor": {"ID": ID, "Attributes": {"name": "box"}},
    "scope": "local",
    "time": 978307200,
    "timeNano": 978307200000000000,
}
_VERSION = {"Version": "1", "ApiVersion": "1.50", "MinAPIVersion": "1.24", "Os": "linux", "Arch": "amd64"}
_ANSWERS: dict[str, Any] = {
    "GET /version": _VERSION,
    "GET /info": {"ID": "i", "ServerVersion": "1", "OSType": "linux", "Containers": 1, "Architecture": "x86_64"},
    "GET /containers/json": [_LISTED],
    "POST /containers/create": {"Id": ID, "Warnings": []},
    "GET /containers/*/json": _CONTAINER,
    "GET /containers/*/stats": _STATS,
    "POST /containers/*/wait": {"StatusCode": 0},
    "POST /containers/*/update": {"Warnings": []},
    "POST /containers/*/exec": {"Id": "exec"},
    "GET /containers/*/checkpoints": [{"Name": "check"}],
    "GET /exec/*/json": {"ID": "exec", "Running": False, "ExitCode": 0, "Pid": 7},
    "POST /commit": {"Id": f"sha256:{'a' * 64}"},
    "GET /images/json": [_IMAGE],
    "GET /images/search": _FOUND,
    "GET /images/*/json": {**_IMAGE, "Created": "2001-01-01T00:00:00Z", "Os": "linux", "Architecture": "amd64"},
    "GET /images/*/history": _HISTORY,
    "DELETE /images/*": [{"Untagged": "busybox:latest"}],
    "POST /images/prune": {"ImagesDeleted": [], "SpaceReclaimed": 0},
    "POST /containers/prune": {"ContainersDeleted": [], "SpaceReclaimed": 0},
    "POST /volumes/prune": {"VolumesDeleted": [], "SpaceReclaimed": 0},
    "POST /networks/prune": {"NetworksDeleted": []},
    "POST /build/prune": {"CachesDeleted": [], "SpaceReclaimed": 0},
    "GET /volumes": {"Volumes": [_VOLUME], "Warnings": []},
    "GET /volumes/*": _VOLUME,
    "POST /volumes/create": _VOLUME,
    "GET /networks": [_NETWORK],
    "GET /networks/*": _NETWORK,
    "POST /networks/create": {"Id": "n" * 64},
    "GET /plugins": [_PLUGIN],
    "GET /plugins/privileges": [],
    "GET /plugins/*/json": _PLUGIN,
    "GET /system/df": _DF,
    "GET /events": _EVENT,
    "POST /auth": {"Status": "Login Succeeded", "IdentityToken": ""},
}
_QUIET = frozenset({"DELETE /containers/*", "DELETE /volumes/*", "DELETE /networks/*"})


class RecordingDaemon:
    """Listens on `path`. `take` returns what has been asked since the last time, flattened (see `flatten`)."""

    def __init__(self, path: str) -> None:
        self.host = f"unix://{path}"
        self._asked: list[tuple[str, Any]] = []
        self._path = path
        self._server = _Server(path, _handler(self._asked))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        os.unlink(self._path)

    def take(self) -> dict[str, Any]:
        """The requests since the last call: what each of their parts is, by its place."""
        asked, self._asked[:] = list(self._asked), []
        return {place: value for name, body in asked for place, value in flatten(name, body).items()}


def flatten(place: str, value: Any) -> dict[str, Any]:
    """The members of objects by their path; lists stay whole, what is nothing (null, 0, "", []) is left out."""
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for name, item in value.items():
            inner = f"{place} {name}" if "/" in name else f"{place}.{name}"
            # An object without members says something by its name (`80/tcp`) or nothing at all.
            found |= {inner: {}} if item == {} and "/" in name else flatten(inner, item)
        return found
    return {} if value is not False and value in (None, 0, "", [], [0, 0]) else {place: value}


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A command that has what it wants may leave before the rest is sent."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _handler(asked: list[tuple[str, Any]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(200, b"")

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path.endswith("/_ping"):
                self._answer(200, b"OK")
                return
            path = parts.path.split("/", 2)[2] if parts.path.startswith("/v1.") else parts.path[1:]
            query = {name: _json(value) for name, value in parse_qsl(parts.query, keep_blank_values=True)}
            headers = {
                name: value
                for name, value in self.headers.items()
                if name in ("X-Registry-Auth", "X-Registry-Config") and value not in ("e30=", "")
            }
            body = self._body()
            asked.append(
                (
                    f"{self.command} /{path}".replace(ID, "<id>").replace("/box/", "/<id>/"),
                    {"asked": True, "?": query, "header": headers, "body": _json(body.decode(errors="replace"))},
                )
            )
            if self.headers.get("Upgrade") == "tcp":
                self.close_connection = True
                self.send_response(101, "UPGRADED")
                self.send_header("Connection", "Upgrade")
                self.send_header("Upgrade", "tcp")
                self.send_header("Content-Type", "application/vnd.docker.multiplexed-stream")
                self.end_headers()
                return
            shape = _shape(f"{self.command} /{path}")
            if shape in _ANSWERS:
                self._answer(201 if path.endswith("create") else 200, json.dumps(_ANSWERS[shape]).encode())
            else:
                streams = ("/logs", "/export", "/get", "/load", "/push", "images/create", "/archive")
                stream = shape not in _QUIET and path.endswith(streams)
                self._answer(200 if stream else 204, b"DATA" if path.endswith(("/export", "/get")) else b"")

        do_POST = do_DELETE = do_PUT = do_GET

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Api-Version", "1.50")
            self.send_header("Ostype", "linux")
            self.send_header("Docker-Experimental", "true")
            self.send_header("Docker-Plugin-Name", "plug:latest")
            self.send_header("Content-Type", "application/json")
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


def _json(text: str) -> Any:
    try:
        return json.loads(text) if text[:1] in ("{", "[") else text
    except ValueError:
        return text


def _shape(request: str) -> str:
    """The request with `*` for names."""
    if request in _ANSWERS:
        return request
    method, path = request.split(" ", 1)
    parts = path.split("/")
    tail = {"json", "stats", "wait", "update", "exec", "checkpoints", "history"}
    last = f"/{parts[-1]}" if len(parts) > 3 and parts[-1] in tail else ""
    return f"{method} /{parts[1]}/*{last}"
