# SPDX-License-Identifier: Apache-2.0
"""A registry for tests: Debian's docker-registry on a free loopback port, and an uploader.

    from support.registry import registry  # the fixture, for the whole session

    def test_pull(registry):
        name = registry.push(images.busybox(), "test/busybox:latest")  # "127.0.0.1:40001/test/busybox:latest"

`running_registry` starts one with other settings (TLS, passwords).
"""

import base64
import http.client
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orlop.codec import decode
from orlop.oci.build import BuiltImage
from orlop.oci.image import INDEX_TYPES, Descriptor, Index, Manifest
from orlop.tls import client_context

BINARY = "/usr/bin/docker-registry"


class Registry:
    """A registry that runs: `host` is `127.0.0.1:port`."""

    def __init__(
        self, host: str, directory: Path, user: tuple[str, str] | None, ca: Path | None, *, mutual: bool = False
    ) -> None:
        self._mutual = mutual
        self.host = host
        self.directory = directory
        self.user = user
        self.ca = ca

    def push(self, image: BuiltImage, name: str) -> str:
        """Upload an image or index as `repository:tag`; the answer is the full reference to pull."""
        repository, _, tag = name.rpartition(":")
        connection = self._connect()
        try:
            self._push(connection, image, image.target, repository, tag)
        finally:
            connection.close()
        return f"{self.host}/{name}"

    def delete(self, repository: str, digest: str) -> None:
        """Remove a manifest."""
        self._request(None, "DELETE", f"/v2/{repository}/manifests/{digest}", expect=202)

    def blob_path(self, digest: str) -> Path:
        """Where the registry keeps a blob, to damage it."""
        algorithm, _, encoded = digest.partition(":")
        return self.directory / "docker/registry/v2/blobs" / algorithm / encoded[:2] / encoded / "data"

    def _connect(self) -> http.client.HTTPConnection:
        if self.ca:
            context = client_context(str(self.ca))
            if self._mutual:
                context.load_cert_chain(self.ca.parent / "client.crt", self.ca.parent / "client.key")
            return http.client.HTTPSConnection(self.host, timeout=60, context=context)
        return http.client.HTTPConnection(self.host, timeout=60)

    def _push(
        self,
        connection: http.client.HTTPConnection,
        image: BuiltImage,
        what: Descriptor,
        repository: str,
        tag: str,
    ) -> None:
        raw = image.blobs[what.digest]
        if what.media_type in INDEX_TYPES:
            for child in decode(raw, Index).manifests:
                self._push(connection, image, child, repository, child.digest)
        else:
            manifest = decode(raw, Manifest)
            for blob in [manifest.config, *manifest.layers]:
                self._push_blob(connection, repository, blob.digest, image.blobs[blob.digest])
        headers = {"Content-Type": what.media_type}
        self._request(connection, "PUT", f"/v2/{repository}/manifests/{tag}", raw, headers, expect=201)

    def _push_blob(
        self, connection: http.client.HTTPConnection, repository: str, digest: str, data: bytes
    ) -> None:
        status, _ = self._request(connection, "HEAD", f"/v2/{repository}/blobs/{digest}", expect=(200, 404))
        if status == 200:
            return
        _, location = self._request(connection, "POST", f"/v2/{repository}/blobs/uploads/", b"", expect=202)
        target = re.sub(r"^https?://[^/]+", "", location)
        target += ("&" if "?" in target else "?") + f"digest={digest}"
        headers = {"Content-Type": "application/octet-stream"}
        self._request(connection, "PUT", target, data, headers, expect=201)

    def _request(
        self,
        connection: http.client.HTTPConnection | None,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        expect: int | tuple[int, ...],
    ) -> tuple[int, str]:
        own = connection or self._connect()
        try:
            everything = dict(headers or {})
            if self.user:
                everything["Authorization"] = "Basic " + base64.b64encode(":".join(self.user).encode()).decode()
            own.request(method, path, body, everything)
            response = own.getresponse()
            text = response.read()
            wanted = expect if isinstance(expect, tuple) else (expect,)
            assert response.status in wanted, f"{method} {path}: {response.status} {text[:200]!r}"
            return response.status, response.headers.get("Location", "")
        finally:
            if connection is None:
                own.close()


@contextmanager
def running_registry(
    *,
    user: tuple[str, str] | None = None,
    tls: bool = False,
    mutual: bool = False,
    directory: Path | None = None,
) -> Iterator[Registry]:
    """Start docker-registry on a free port of 127.0.0.1; it is ended, and its data removed, with the block.

    `mutual`: it lets in who shows `client.crt`, which lies with its key beside `ca`.
    """
    with tempfile.TemporaryDirectory(prefix="orlop-registry-") as temporary:
        place = directory or Path(temporary) / "data"
        config = Path(temporary) / "config.yml"
        config.write_text(_config(place, Path(temporary), user, tls, mutual))
        process = subprocess.Popen(
            [BINARY, "serve", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", ""), "OTEL_TRACES_EXPORTER": "none"},
        )
        try:
            host = _address(process)
            yield Registry(host, place, user, Path(temporary) / "ca.crt" if tls else None, mutual=mutual)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stderr is not None
            process.stderr.close()


def _config(place: Path, temporary: Path, user: tuple[str, str] | None, tls: bool, mutual: bool) -> str:
    lines = [
        "version: 0.1",
        "log: {level: info, accesslog: {disabled: true}}",
        f"storage: {{filesystem: {{rootdirectory: {place}}}, delete: {{enabled: true}}}}",
    ]
    if user:
        # Perl's crypt() is libxcrypt's, which knows bcrypt; the salt need not be secret here.
        program = "print crypt($ARGV[0], q($2b$04$abcdefghijklmnopqrstuu))"
        hashing = subprocess.run(["perl", "-e", program, user[1]], check=True, capture_output=True, text=True)
        (temporary / "htpasswd").write_text(f"{user[0]}:{hashing.stdout}\n")
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {temporary}/htpasswd}}}}")
    http_part = "addr: 127.0.0.1:0"
    if tls:
        make_certificate(temporary)
        clients = f", clientcas: [{temporary}/ca.crt]" if mutual else ""
        http_part += f", tls: {{certificate: {temporary}/server.crt, key: {temporary}/server.key{clients}}}"
    lines.append(f"http: {{{http_part}}}")
    return "\n".join(lines) + "\n"


def make_certificate(directory: Path) -> None:
    """An authority (ca.crt), certificates of it for 127.0.0.1 and localhost and a client's."""
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    authority = f"{request} -keyout ca.key -out ca.crt -subj /CN=authority"
    server = (
        f"{request} -CA ca.crt -CAkey ca.key -keyout server.key -out server.crt -subj /CN=127.0.0.1"
        " -addext subjectAltName=IP:127.0.0.1,DNS:localhost -addext basicConstraints=critical,CA:false"
    )
    client = f"{request} -CA ca.crt -CAkey ca.key -keyout client.key -out client.crt -subj /CN=client"
    for command in (authority, server, client):
        subprocess.run(command.split(), check=True, cwd=directory, capture_output=True)


def _address(process: subprocess.Popen[bytes]) -> str:
    """Wait for the log line that says where it listens, then keep its log from filling the pipe."""
    assert process.stderr is not None
    descriptor = process.stderr.fileno()
    text = b""
    deadline = time.monotonic() + 20
    while (found := re.search(rb"listening on ([0-9.]+:[0-9]+)", text)) is None:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(descriptor, 65536) if ready else b""
        if not chunk:
            raise RuntimeError(f"docker-registry did not start: {text.decode(errors='replace')[-500:]}")
        text += chunk
    import threading

    def drain() -> None:
        while True:
            try:
                if not os.read(descriptor, 65536):
                    return
            except OSError:
                return

    threading.Thread(target=drain, daemon=True).start()
    return found[1].decode()


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A registry without passwords, for the whole session."""
    with running_registry() as running:
        yield running
