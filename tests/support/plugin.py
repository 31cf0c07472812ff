# SPDX-License-Identifier: Apache-2.0
"""A Docker plugin for tests: volumes in directories, and a judge over requests, behind one socket."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Judge = "Callable[[str, dict[str, Any]], dict[str, Any]]"


class Plugin:
    """Listens at `socket`; `calls` has each method with what it was given."""

    def __init__(self, socket: Path, directory: Path, implements: tuple[str, ...] = ("VolumeDriver",)) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.volumes: dict[str, dict[str, str]] = {}
        self.judge: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda method, question: {"Allow": True}
        self.failure = ""
        self._directory = directory
        self._implements = implements
        self._socket = socket
        socket.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(exist_ok=True)
        plugin = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                answer = plugin._answer(self.path[1:], json.loads(body) if body.strip() else {})
                data = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def address_string(self) -> str:
                return "client"

            def log_message(self, *_: object) -> None:
                pass

        self._server = socketserver.ThreadingUnixStreamServer(str(socket), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """Stop, and remove the socket."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._socket.unlink()

    def methods(self) -> list[str]:
        """The methods called, without the first word."""
        return [method.partition(".")[2] for method, _ in self.calls]

    def _answer(self, method: str, given: dict[str, Any]) -> dict[str, Any]:
        if method == "Plugin.Activate":
            return {"Implements": list(self._implements)}
        self.calls.append((method, given))
        if method.startswith("AuthZPlugin."):
            return self.judge(method, given)
        if self.failure:
            return {"Err": self.failure}
        name = given.get("Name", "")
        if method != "VolumeDriver.Create" and name and name not in self.volumes:
            return {"Err": f"no volume {name}"}
        verb = method.removeprefix("VolumeDriver.")
        return getattr(self, f"_{verb.lower()}")(name, given)  # type: ignore[no-any-return]

    def _create(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        self.volumes[name] = given.get("Opts") or {}
        os.makedirs(self._directory / name, exist_ok=True)
        return {}

    def _remove(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        del self.volumes[name]
        shutil.rmtree(self._directory / name)
        return {}

    def _mount(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return {"Mountpoint": str(self._directory / name)}

    def _unmount(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _path(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return {"Mountpoint": str(self._directory / name)}

    def _get(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return {"Volume": {**self._shown(name), "Status": {"colour": "blue"}}}

    def _list(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return {"Volumes": [self._shown(each) for each in self.volumes]}

    def _capabilities(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return {"Capabilities": {"Scope": "global"}}

    def _shown(self, name: str) -> dict[str, Any]:
        return {"Name": name, "Mountpoint": str(self._directory / name), "CreatedAt": "2020-01-02T03:04:05Z"}


def body_of(question: dict[str, Any], field: str = "RequestBody") -> bytes:
    """A body as an authorization plugin was shown it."""
    return base64.b64decode(question.get(field, ""))
