# SPDX-License-Identifier: Apache-2.0
"""What a caller hands down, or has lost: signals that it ignores, full streams, a directory that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from support.bundles import Bundle, Runtime
from support.pace import PACE

pytestmark = pytest.mark.root

_DEAF = [
    sys.executable, "-I", "-c",
    "import os, signal, sys\n"
    "for number in (1, 2, 13, 15, 17): signal.signal(number, signal.SIG_IGN)\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, [10, 14, 15, 17])\n"
    "os.execv(sys.argv[1], sys.argv[1:])",
]  # fmt: skip


def test_a_caller_that_ignores_and_blocks_signals(runtime: Runtime, bundle: Bundle) -> None:
    """Of SIGCHLD, too: each process is waited for all the same, a hook's, an exec's and the container's."""
    if runtime.name == "crun":
        pytest.skip("crun fails there: waitpid: No child processes")
    runtime.command = [*_DEAF, *runtime.command]
    bundle.spec["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}
    result = runtime.run(bundle.args("grep -E 'Sig(Blk|Ign)' /proc/self/status; exit 7"))
    assert result.status == 7
    if runtime.is_ours:  # runc passes on what is blocked
        assert [line.split()[1] for line in result.out.splitlines()] == ["0" * 16] * 2
    container = runtime.start(bundle.args("sleep", "100"))
    assert runtime("exec", container, "sh", "-c", "exit 5").status == 5
    runtime("delete", "--force", container).ok()


def _end_of_a_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


_FULL: dict[str, Callable[[], int]] = {
    "full": lambda: os.open("/dev/full", os.O_WRONLY),
    "nobody there": _end_of_a_pipe,
}


@pytest.mark.parametrize("how", _FULL)
def test_output_that_cannot_be_written(ours: Runtime, bundle: Bundle, how: str) -> None:
    container = ours.create(bundle.args("true", ""))
    for words in (["state", container], ["list"], ["features"], ["--version"], ["events", "--stats", container]):
        fd = _FULL[how]()
        done = subprocess.run(
            [*ours.command, "--root", ours.root, *words], stdout=fd, stderr=subprocess.PIPE, text=True,
            stdin=subprocess.DEVNULL, timeout=30 * PACE, check=False,
        )  # fmt: skip
        os.close(fd)
        assert done.returncode == 1, words
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") <= 1
        if how == "full":
            assert "no space left on device" in done.stderr, words


@pytest.mark.parametrize("how", _FULL)
def test_errors_that_cannot_be_written(ours: Runtime, how: str) -> None:
    """The exit code remains."""
    for words, status in ((["state", "nobody"], 1), (["exec", "nobody", "true"], 255), (["frob"], 1)):
        fd = _FULL[how]()
        done = subprocess.run(
            [*ours.command, "--root", ours.root, "--log", "/dev/full", *words], stderr=fd, check=False,
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=30 * PACE,
        )  # fmt: skip
        os.close(fd)
        assert (done.returncode, done.stdout) == (status, b"")


def test_a_current_directory_that_is_gone(runtime: Runtime, bundle: Bundle, tmp_path) -> None:
    container = runtime.new_id(bundle.args("pwd", ""))
    bundle.write()
    (tmp_path / "gone").mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'

    def from_there(*words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "gone").mkdir(exist_ok=True)
        return subprocess.run(
            ["sh", "-c", script, "sh", str(tmp_path / "gone"), *runtime.command, *words], check=False,
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30 * PACE,
        )  # fmt: skip

    done = from_there("--root", runtime.root, "run", "-b", bundle.path, container)
    assert (done.returncode, done.stdout) == (0, "/\n"), done.stderr
    done = from_there("--root", runtime.root, "run", container)
    assert done.returncode == 1
    if runtime.is_ours:
        assert '\\".\\" cannot be found: the current directory has been removed' in done.stderr
        done = from_there("--root", "state", "list")
        assert done.returncode == 1
        assert "the current directory has been removed" in done.stderr


def test_few_descriptors(runtime: Runtime, bundle: Bundle) -> None:
    """32 are enough; with 8 it is said that they are not, and nothing is left."""
    container = runtime.new_id(bundle.args("ulimit -n"))
    bundle.write()
    for count in (32, 8):
        done = subprocess.run(
            ["sh", "-c", 'ulimit -n $1; shift; exec "$@"', "sh", str(count), *runtime.command, "--root",
             runtime.root, "run", "-b", bundle.path, container],
            check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30 * PACE,
        )  # fmt: skip
        if runtime.is_ours and count == 32:
            assert done.returncode == 0, done.stderr
        if runtime.is_ours and count == 8:
            assert (done.returncode, done.stdout) == (1, "")
            assert "too many open files" in done.stderr
            assert not os.path.exists(f"{runtime.root}/{container}")


def test_a_huge_environment(runtime: Runtime, bundle: Bundle) -> None:
    """None of it is the container's."""
    container = runtime.new_id(bundle.args("env | wc -l"))
    bundle.write()
    environment = os.environ | {f"V{number}": "x" * 100_000 for number in range(12)}
    assert int(runtime("run", "-b", bundle.path, container, env=environment).ok()) < 10
