# SPDX-License-Identifier: Apache-2.0
"""`orlop context`: its own words, and the directory that it shares with Docker's command."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import threading

import pytest

DOCKER = shutil.which("docker") or "/usr/bin/docker"
ORLOP = f"{os.path.dirname(sys.executable)}/orlop"


class Home:
    """A user's directory, and both commands in it."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.variables: dict[str, str] = {}

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command, without any variable of the tests' own environment that chooses a daemon."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.path), **self.variables}
        return subprocess.run(
            [program, *arguments], capture_output=True, text=True, env=environment, timeout=60, check=False
        )

    def orlop(self, *arguments: str, fails: bool = False) -> str:
        """Its standard output, or its standard error where it is to fail."""
        return self._checked(self.run(ORLOP, *arguments), fails)

    def docker(self, *arguments: str) -> str:
        return self._checked(self.run(DOCKER, *arguments), False)

    def _checked(self, done: subprocess.CompletedProcess[str], fails: bool) -> str:
        assert bool(done.returncode) == fails, done.stderr
        return done.stderr if fails else done.stdout


@pytest.fixture
def home(tmp_path: pathlib.Path) -> Home:
    """An empty one."""
    return Home(tmp_path)


def test_create_use_remove(home: Home) -> None:
    """The life of a context."""
    assert home.orlop("context", "show") == "default\n"
    assert (
        home.orlop("context", "create", "far", "--docker", "host=tcp://127.0.0.1:1", "--description", "d")
        == "far\n"
    )
    assert home.orlop("context", "use", "far") == "far\n"
    rows = home.orlop("context", "ls", "--format", "{{.Name}} {{.Current}} {{.DockerEndpoint}}").splitlines()
    assert rows == ["default false unix:///run/orlop/docker.sock", "far true tcp://127.0.0.1:1"]
    assert "far *" in home.orlop("context", "ls")
    assert "tcp://127.0.0.1:1" in home.orlop("ps", fails=True)
    home.variables = {"DOCKER_CONTEXT": "default"}
    assert "/run/orlop/docker.sock" in home.orlop("context", "inspect")
    home.variables = {"DOCKER_HOST": "unix:///nowhere"}
    assert home.orlop("context", "show") == "default\n"
    assert "unix:///nowhere" in home.orlop("ps", fails=True)
    assert "tcp://127.0.0.1:1" in home.orlop("-c", "far", "ps", fails=True)
    home.variables = {}
    home.orlop("context", "update", "far", "--docker", "host=tcp://127.0.0.1:2")
    assert "tcp://127.0.0.1:2" in home.orlop("ps", fails=True)
    assert "in use, set -f flag" in home.orlop("context", "rm", "far", fails=True)
    assert home.orlop("context", "rm", "-f", "far") == "far\n"
    assert home.orlop("context", "show") == "default\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "default"], '"default" is a reserved context name'),
        (["create", "a b"], "is invalid, names are validated"),
        (["create", "../x"], "is invalid, names are validated"),
        (["create", "c1", "--docker", "bla=1"], "unrecognized config key: bla"),
        (["create", "c1", "--docker", "host=foo"], "unable to parse docker host `foo`"),
        (["create", "c1", "--docker", "host=tcp://x:1,ca=/no/such"], "open /no/such: no such file"),
        (["create", "c1", "--from", "none"], "context not found"),
        (["update", "none"], 'context "none" does not exist'),
        (["use", "none"], "context not found"),
        (["inspect", "none"], "context not found"),
        (["rm", "none"], 'context "none" does not exist'),
        (["rm", "default"], 'context "default" cannot be removed'),
        (["export", "none"], "context not found"),
        (["import", "c1", "/no/such"], "open /no/such: no such file"),
    ],
)
def test_refusals(home: Home, arguments: list[str], words: str) -> None:
    """Nothing is left of what is refused."""
    assert words in home.orlop("context", *arguments, fails=True)
    assert home.orlop("context", "ls", "-q") == "default\n"


def test_shared_with_docker(home: Home) -> None:
    """What one command makes the other one uses, TLS files included."""
    for name in ("ca", "cert", "key"):
        (home.path / name).write_text(f"the {name}")
    files = ",".join(f"{name}={home.path}/{name}" for name in ("ca", "cert", "key"))
    home.orlop("context", "create", "ours", "--docker", f"host=tcp://127.0.0.1:1,{files}", "--description", "made")
    home.docker("context", "create", "theirs", "--docker", "host=tcp://127.0.0.1:2")
    assert home.docker("context", "ls", "-q") == home.orlop("context", "ls", "-q") == "default\nours\ntheirs\n"
    for name in ("ours", "theirs"):
        seen = json.loads(home.docker("context", "inspect", name))
        ours = json.loads(home.orlop("context", "inspect", name))
        for view in (*seen, *ours):
            view["TLSMaterial"] = {key: sorted(names) for key, names in view["TLSMaterial"].items()}
        assert seen == ours
    home.docker("context", "use", "ours")
    assert home.orlop("context", "show") == "ours\n"
    home.orlop("context", "use", "theirs")
    assert home.docker("context", "show") == "theirs\n"
    archive = f"{home.path}/x.tar"
    home.orlop("context", "export", "ours", archive)
    assert "file exists" in home.orlop("context", "export", "ours", archive, fails=True)
    home.docker("context", "import", "copied", archive)
    os.unlink(archive)
    home.docker("context", "export", "copied", archive)
    home.orlop("context", "import", "again", archive)
    tls = pathlib.Path(json.loads(home.orlop("context", "inspect", "again"))[0]["Storage"]["TLSPath"])
    assert (tls / "docker/key.pem").read_text() == "the key"
    assert (tls / "docker/key.pem").stat().st_mode & 0o777 == 0o600
    assert "conflicting options" in home.orlop("-H", "unix:///x", "-c", "ours", "ps", fails=True)


def test_broken_archives(home: Home) -> None:
    """What is no context is refused."""
    path = home.path / "broken"
    for data in (b"", b"rubbish" * 200, b"PK\x03\x04 no zip"):
        path.write_bytes(data)
        assert "context archive: " in home.orlop("context", "import", "c1", str(path), fails=True)
    assert home.orlop("context", "ls", "-q") == "default\n"


def test_dial_stdio(tmp_path: pathlib.Path) -> None:
    """Bytes pass both ways, and the end of the input is told while the answer still comes."""
    path = str(tmp_path / "d.sock")
    heard = []

    def serve() -> None:
        connection, _ = listening.accept()
        with connection:
            while data := connection.recv(1 << 16):
                heard.append(data)
            connection.sendall(b"answer" * 20_000)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        done = subprocess.run(
            [ORLOP, "-H", f"unix://{path}", "system", "dial-stdio"],
            input=b"question" * 20_000, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        thread.join(60)
    assert (done.returncode, done.stdout) == (0, b"answer" * 20_000)
    assert b"".join(heard) == b"question" * 20_000
