# SPDX-License-Identifier: Apache-2.0
"""Log files change hands: Debian's dockerd and ours read what the other has written."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import images
from support.containerd import Result, run
from support.dockerd_original import OriginalDockerd

from orlop.dockerd.logging.forms import LOCAL
from orlop.rpc.logentry import encode_attrs
from orlop.shim.io.locallog import LocalLog

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.original]
DOCKER = "/usr/local/bin/docker"


@pytest.fixture
def original() -> Iterator[OriginalDockerd]:
    """Debian's dockerd on our containerd, with busybox."""
    daemon = OriginalDockerd("orlop")
    try:
        docker(daemon, "load", "-i", images.archive("busybox")).ok()
        yield daemon
    finally:
        daemon.remove()


def docker(daemon: OriginalDockerd, *arguments: str) -> Result:
    """Run the docker command against it."""
    return run([DOCKER, *arguments], env=daemon.environment(), stdin=subprocess.DEVNULL)


def test_local_logs_are_read_alike(original: OriginalDockerd) -> None:
    """What its `local` driver writes we read, and what ours writes it shows."""
    script = "echo one; echo two >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf end"
    flags = ["--name", "local", "--network", "none", "--log-driver", "local"]
    docker(original, "run", *flags, "busybox", "sh", "-c", script).ok()
    (path,) = Path(original.base, "data/containers").glob("*/local-logs/container.log")
    entries, length = LOCAL.split(path.read_bytes())
    assert length == path.stat().st_size
    written = "".join(entry.log for entry in entries if entry.stream == "stdout")
    assert written == "one\n" + "x" * 40000 + "\nend"
    assert [entry.log for entry in entries if entry.stream == "stderr"] == ["two\n"]
    path.unlink()
    log = LocalLog(str(path), attrs=encode_attrs({"a": "b"}).hex())
    log.write(1, b"uno\ntres\n" + b"y" * 50000 + b"\n")
    log.write(2, b"due\n")
    log.close()
    shown = docker(original, "logs", "local")
    # Docker 20.10 forgets the newline behind a line in pieces, its own ones, too.
    assert (shown.out.rstrip("\n"), shown.err) == ("uno\ntres\n" + "y" * 50000, "due\n")
    assert docker(original, "logs", "--tail", "1", "local").err == "due\n"
    docker(original, "rm", "local").ok()
