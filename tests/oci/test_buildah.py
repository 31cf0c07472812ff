# SPDX-License-Identifier: Apache-2.0
"""Debian's buildah doing its ordinary jobs on the runtime: run in a working container, build a Dockerfile."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

import pytest
from support.bundles import COMMANDS, make_rootfs

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("buildah") is None, reason="buildah is not installed"),
]


class Buildah:
    """buildah with a storage of its own, on one runtime."""

    def __init__(self, runtime: str) -> None:
        self.directory = tempfile.mkdtemp(prefix="orlop-bah-")
        self.runtime = COMMANDS[runtime]
        make_rootfs(f"{self.directory}/rootfs")
        self.base = self("from", "scratch").stdout.strip()
        self("copy", self.base, f"{self.directory}/rootfs", "/").check_returncode()
        self("config", "--env", "PATH=/bin", self.base).check_returncode()

    def __call__(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        storage = [
            "--root",
            f"{self.directory}/root",
            "--runroot",
            f"{self.directory}/run",
            "--storage-driver",
            "vfs",
        ]
        return subprocess.run(
            ["buildah", *storage, command, *arguments],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """run in the working container, in a container of the runtime's."""
        flags = ["--isolation", "oci", "--runtime", self.runtime, "--network", "none"]
        return self("run", *flags, *arguments)

    def close(self) -> None:
        """Remove everything."""
        self("rm", "--all")
        self("rmi", "--all", "--force")
        shutil.rmtree(self.directory)
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            assert self.directory not in file.read()


@pytest.fixture(scope="module", params=["orlop-runc", pytest.param("runc", marks=pytest.mark.original)])
def buildah(request: pytest.FixtureRequest) -> Iterator[Buildah]:
    """On ours, and on what Debian would use."""
    made = Buildah(request.param)
    refused = "error setting rlimit" in made.run(made.base, "--", "true").stderr
    if not refused:
        yield made
    made.close()
    if refused:  # buildah 1.39 asks for a million of files
        pytest.skip("runc may not raise the limits of this machine, which buildah asks for")


def test_run(buildah: Buildah) -> None:
    done = buildah.run(buildah.base, "--", "sh", "-c", "echo $$; id -u; hostname > /etc/made; exit 7")
    assert (done.stdout, done.returncode) == ("1\n0\n", 7)
    assert buildah.run(buildah.base, "--", "cat", "/etc/made").stdout.strip()


def test_run_as_asked(buildah: Buildah, tmp_path) -> None:
    (tmp_path / "note").write_text("from outside")
    os.chmod(tmp_path, 0o755)
    flags = ["--user", "1000:1001", "--workingdir", "/tmp", "--env", "A=b", "--volume", f"{tmp_path}:/data:ro"]
    done = buildah.run(*flags, buildah.base, "--", "sh", "-c", "id -u; id -g; pwd; echo $A; cat /data/note")
    assert done.stdout == "1000\n1001\n/tmp\nb\nfrom outside"
    dropped = buildah.run("--cap-drop", "CAP_CHOWN", buildah.base, "--", "chown", "1", "/tmp")
    assert dropped.returncode == 1
    assert "Operation not permitted" in dropped.stderr


def test_a_program_that_is_missing(buildah: Buildah) -> None:
    done = buildah.run(buildah.base, "--", "no-such-program")
    assert done.returncode != 0
    assert "executable file not found in $PATH" in done.stderr


def test_a_dockerfile(buildah: Buildah) -> None:
    context = f"{buildah.directory}/context"
    os.mkdir(context)
    shutil.move(f"{buildah.directory}/rootfs", f"{context}/rootfs")
    with open(f"{context}/Dockerfile", "w", encoding="utf-8") as file:
        file.write(
            "FROM scratch\nCOPY rootfs /\nENV PATH=/bin\nRUN echo one > /one && id -u >> /one\nUSER 1000\n"
            "WORKDIR /home\nRUN id -u > /tmp/two; pwd >> /tmp/two\n"
        )
    built = buildah(
        "bud", "--isolation", "oci", "--runtime", buildah.runtime, "--network", "none", "-t", "made", context
    )
    assert built.returncode == 0, built.stderr
    container = buildah("from", "made").stdout.strip()
    assert buildah.run(container, "--", "cat", "/one", "/tmp/two").stdout == "one\n0\n1000\n/home\n"
