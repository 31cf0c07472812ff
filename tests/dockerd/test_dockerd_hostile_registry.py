# SPDX-License-Identifier: Apache-2.0
"""Pulling what is no image: one line of an error each time, and a daemon that lives on."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from support.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"
INDEX = "application/vnd.oci.image.index.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Server:
    """A registry that answers every manifest with the same bytes, and has blobs by digest."""

    def __init__(self, stack: Stack) -> None:
        self.manifest, self.kind = b"", MANIFEST
        self.blobs: dict[str, bytes] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                body = server.manifest if "/manifests/" in self.path else server.blobs.get(name, b"{}")
                self.send_response(200)
                self.send_header("Content-Type", server.kind if "/manifests/" in self.path else "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with stack.network():
            self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.name = f"127.0.0.1:{self._http.server_port}/evil"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def blob(self, content: bytes, kind: str) -> dict[str, Any]:
        """Offer a blob; its descriptor."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return {"mediaType": kind, "size": len(content), "digest": digest}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        yield running


@pytest.fixture(scope="module")
def server(stack: Stack) -> Iterator[Server]:
    serving = Server(stack)
    yield serving
    serving.close()


def documents(server: Server) -> Iterator[tuple[str, bytes]]:
    """Kinds and bytes of manifests that are none."""
    config = server.blob(b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}', "x")
    null = server.blob(b"null", "application/vnd.docker.container.image.v1+json")
    layer = server.blob(b"no tar at all", LAYER)
    base: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST}
    for content in (
        b"", b"null", b"[]", b"{}", b"{", b"\xff\xfe", b'"text"', b"1e999", b'{"schemaVersion":"2"}',
        b"[" * 100_000, b'{"schemaVersion":2,"layers":null,"config":null}',
    ):  # fmt: skip
        yield MANIFEST, content
    for change in (
        {"config": None, "layers": [None]},
        {"config": config, "layers": [None]},
        {"config": config, "layers": [layer]},
        {"config": null, "layers": [layer]},
        {"config": config, "layers": [{**layer, "size": -1}]},
        {"config": config, "layers": [{**layer, "size": 2**63}]},
        {"config": {**config, "digest": "sha256:../../etc/passwd"}, "layers": []},
        {"config": {**config, "digest": "md5:0"}, "layers": []},
        {"config": [], "layers": {}},
    ):
        yield MANIFEST, json.dumps({**base, **change}).encode()
    for history in (None, [None], [{}], [{"v1Compatibility": "null"}], [{"v1Compatibility": "{"}]):
        old = {"schemaVersion": 1, "name": "evil", "tag": "latest", "fsLayers": [{}], "history": history}
        yield SCHEMA_1, json.dumps(old).encode()
    for manifests in (None, [None], [{}], [{"digest": "x"}]):
        yield INDEX, json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()


@pytest.mark.long
def test_a_malformed_manifest_is_an_error(stack: Stack, server: Server) -> None:
    """CVE-2021-21285: one of these ended the daemon."""
    assert stack.process is not None
    for kind, content in documents(server):
        server.kind, server.manifest = kind, content
        done = stack.docker("pull", server.name)
        assert done.status == 1, (kind, content[:200], done.out)
        assert done.err.strip(), (kind, content[:200])
        assert "Traceback" not in done.err
        assert stack.process.poll() is None, (kind, content[:200])
    assert "Traceback" not in stack.log()
    assert stack.docker("images", "-q").out == ""
