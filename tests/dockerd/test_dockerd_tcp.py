# SPDX-License-Identifier: Apache-2.0
"""The API over TCP: with TLS, with certificates of clients, in the open where asked for; HTTP/2 of gRPC."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from support import orlopd, pki
from support.orlopd import PROGRAM, flags, get, running
from support.stack import DOCKER, Stack

from orlop.tls import client_context

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root
PORT = 23760
BODY = b"\r\n\r\n"


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory and a network namespace for one test."""
    with orlopd.directory() as path:
        yield path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of `support.pki`."""
    return pki.make(tmp_path_factory.mktemp("pki"))


def _tls(certificates: Path) -> list[str]:
    files = {"cacert": "ca.pem", "cert": "server.pem", "key": "server.key"}
    return [word for flag, file in files.items() for word in (f"--tls{flag}", str(certificates / file))]


def _client(certificates: Path, name: str = "") -> ssl.SSLContext:
    context = client_context(str(certificates / "ca.pem"))
    if name:
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context


def _ping(context: ssl.SSLContext) -> bytes:
    connection = http.client.HTTPSConnection("127.0.0.1", PORT, context=context, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/_ping")
        return connection.getresponse().read()


def test_clients_need_a_certificate_of_the_authority(base: Path, certificates: Path) -> None:
    path = f"{base}/x.sock"
    more = ["-H", f"tcp://127.0.0.1:{PORT}", "-H", f"unix://{path}", "--tlsverify", *_tls(certificates)]
    with running(base, [*PROGRAM, *flags(base, *more)]):
        assert _ping(_client(certificates, "client")) == b"OK"
        for name in ("", "stranger"):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                _ping(_client(certificates, name))
        with socket.create_connection(("127.0.0.1", PORT), 20) as plain:
            plain.sendall(b"GET /_ping HTTP/1.1\r\nHost: x" + BODY)
            answer = b"".join(iter(lambda: plain.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.0 400 Bad Request")
        assert answer.endswith(b"Client sent an HTTP request to an HTTPS server.\n")
        assert get(path, "/_ping") == (200, b"OK")  # several hosts at once; no TLS on the Unix socket
        assert get(path, "/info")[1]["Warnings"] is None
        variables = {**os.environ, "DOCKER_HOST": f"tcp://127.0.0.1:{PORT}", "DOCKER_CERT_PATH": str(certificates)}
        variables["DOCKER_TLS_VERIFY"] = "1"
        seen = subprocess.run([DOCKER, "version", "-f", "{{.Server.Os}}"], env=variables, capture_output=True,
                              text=True, check=False)  # fmt: skip
        assert (seen.stdout, seen.stderr) == ("linux\n", "")


def test_sockets_by_activation(base: Path, certificates: Path) -> None:
    """Those of TCP are served with TLS, and without it not at all; the one of Unix beside them as ever."""
    path = f"{base}/held.sock"
    script = 'LISTEN_PID=$$ LISTEN_FDS=2; export LISTEN_PID LISTEN_FDS; exec "$@" 3<&"$0" 4<&$OTHER'
    with socket.create_server(("127.0.0.1", PORT)) as held, socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        passed = [held.fileno(), other.fileno()]
        start = ["env", f"OTHER={passed[1]}", "bash", "-c", script, str(passed[0])]
        command = [*start, *PROGRAM, *flags(base, "-H", "fd://", "--tlsverify", *_tls(certificates))]
        with running(base, command, pass_fds=passed):
            assert _ping(_client(certificates, "client")) == b"OK"
            with pytest.raises((ssl.SSLError, ConnectionError)):
                _ping(_client(certificates))
            assert get(path, "/_ping") == (200, b"OK")
        refused = subprocess.run(
            [*start, *PROGRAM, *flags(base, "-H", "fd://")],
            pass_fds=passed,
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 1
        assert f"tcp://127.0.0.1:{PORT}: without --tlsverify everybody" in refused.stderr


@pytest.mark.long
def test_tls_alone_and_no_tls_are_told_as_dangers(base: Path, certificates: Path) -> None:
    path = f"{base}/x.sock"
    hosts = ["-H", f"tcp://127.0.0.1:{PORT}", "-H", f"unix://{path}"]
    with running(base, [*PROGRAM, *flags(base, *hosts, "--tls", "--tlsverify=false", *_tls(certificates))]):
        assert _ping(_client(certificates)) == b"OK"
        (warning,) = get(path, "/info")[1]["Warnings"]
        assert f"API is accessible on https://127.0.0.1:{PORT} without TLS client verification." in warning
    with running(base, [*PROGRAM, *flags(base, *hosts, "--tls=false")]):
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        connection.request("GET", "/_ping")
        assert connection.getresponse().read() == b"OK"
        connection.close()
        (warning,) = get(path, "/info")[1]["Warnings"]
        assert f"API is accessible on http://127.0.0.1:{PORT} without encryption." in warning


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--tls"], "invalid TLS configuration: error reading X509 key pair - make sure the key is not encrypted"),
        (["--tlsverify", "--tlscert", "server.pem", "--tlskey", "server.key", "--tlscacert", "nosuch"],
         'invalid TLS configuration: could not read CA certificate "nosuch": No such file or directory'),
        (["--tlsverify", "--tlscert", "server.pem", "--tlskey", "client.key"], "key values mismatch"),
    ],
)  # fmt: skip
def test_wrong_certificates_are_one_line(base: Path, certificates: Path, more: list[str], words: str) -> None:
    command = [*PROGRAM, *flags(base, "-H", f"tcp://127.0.0.1:{PORT}", *more)]
    variables = {**os.environ, "HOME": str(base)}
    failed = subprocess.run(command, capture_output=True, text=True, check=False, cwd=certificates, env=variables)
    assert failed.returncode == 1
    assert words in failed.stderr
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("program", [DOCKER, f"{os.path.dirname(sys.executable)}/orlop"], ids=["docker", "orlop"])
def test_input_ends_before_output_over_tls(certificates: Path, program: str) -> None:
    hosts = ["-H", f"tcp://127.0.0.1:{PORT}", "--tlsverify", *_tls(certificates)]
    with Stack(flags=hosts) as stack:
        stack.load("busybox")
        variables = {**stack.environment(), "DOCKER_HOST": f"tcp://127.0.0.1:{PORT}", "DOCKER_TLS_VERIFY": "1"}
        variables["DOCKER_CERT_PATH"] = str(certificates)
        text = "x" * 300_000 + "\n"
        with stack.network():
            command = [program, "run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo end"]
            done = subprocess.run(
                command, input=text, env=variables, capture_output=True, text=True, check=False, timeout=120
            )
        assert (done.stdout == text + "end\n", done.stderr, done.returncode) == (True, "", 0)


def test_grpc_by_prior_knowledge_and_by_upgrade(base: Path) -> None:
    path = f"{base}/x.sock"
    with running(base, [*PROGRAM, *flags(base, "-H", f"unix://{path}")]):
        for target in (path, _upgrading(f"{base}/up.sock", path)):
            with grpc.insecure_channel(f"unix:{target}") as channel:
                call = channel.unary_unary("/moby.buildkit.v1.Control/Info")
                with pytest.raises(grpc.RpcError) as failed:
                    call(b"", timeout=30)
            assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
            assert "building images is not supported" in failed.value.details()  # type: ignore[attr-defined]
        assert get(path, "/_ping") == (200, b"OK")
        variables = {**os.environ, "DOCKER_HOST": f"unix://{path}"}
        command = [DOCKER, "build", "-"]
        build = subprocess.run(command, input=b"FROM scratch", env=variables, capture_output=True, check=False)
        assert build.returncode == 1
        assert b"building images is not supported by this daemon" in build.stderr
        assert b"docker buildx create" in build.stderr


def _upgrading(path: str, target: str) -> str:
    """Takes one connection on `path`, and upgrades it at `target` by POST /grpc."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()

    def serve() -> None:
        with listening, listening.accept()[0] as client, socket.socket(socket.AF_UNIX) as server:
            server.connect(target)
            server.sendall(b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c" + BODY)
            head = b""
            while not head.endswith(BODY):
                head += server.recv(1)
            assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
            back = threading.Thread(target=_copy, args=(server, client))
            back.start()
            _copy(client, server)
            back.join()

    threading.Thread(target=serve, daemon=True).start()
    return path


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
