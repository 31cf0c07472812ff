# SPDX-License-Identifier: Apache-2.0
"""The swap matrix: every cell runs, shows, signals, freezes and keeps containers as any other does."""

import os
import signal
from collections.abc import Iterator

import pytest
from support.containerd import wait_until
from support.swap.engine import PAUSED, RUNNING, STOPPED, Engine

pytestmark = [pytest.mark.root, pytest.mark.original]

# Tells what it is told: USR1 adds a line to its output, TERM ends it with 9.
LISTENER = (
    "trap 'echo told' USR1; trap 'echo bye; exit 9' TERM; echo ready; echo complaint >&2; "
    "sleep 1000 & while :; do wait $!; done"
)


@pytest.fixture
def box(engine: Engine) -> Iterator[str]:
    """A container that runs and listens to signals."""
    engine.start("box", LISTENER)
    wait_until(lambda: "ready" in engine.logs("box"))
    yield "box"
    engine.kill("box", "KILL")
    assert engine.end("box") == 137


def test_run_and_exit_code(engine: Engine) -> None:
    through, text = ("cat", "through\n") if engine.ends_input else ("echo through", None)
    done = engine.run(f"{through}; echo err >&2; exit 7", text)
    assert (done.status, done.out) == (7, "through\n")
    assert "err" in done.err


def test_program_that_is_not_there(engine: Engine) -> None:
    done = engine.run_program("/no/such/program")
    assert done.status in engine.missing_program
    assert "no such file or directory" in done.err.lower()
    if engine.on_containerd:
        assert "failed to create shim task: OCI runtime create failed" in done.err


def test_life(engine: Engine, box: str) -> None:
    """Output, exec, exec at a terminal, pausing, and the end by a signal's number."""
    logs = engine.logs(box)
    assert "ready\n" in logs

    inside = engine.exec(box, "echo inside; exit 4")
    assert (inside.status, inside.out) == (4, "inside\n")
    with engine.exec_at_terminal(box) as terminal:
        terminal.resize(31, 97)
        terminal.type("until stty size | grep -q '31 97'; do :; done; tty; exit 3\n")
        terminal.expect("/dev/(pts/|console)")
        assert terminal.wait() == 3

    assert engine.pid(box) in engine.pids(box)
    engine.pause(box)
    assert engine.status(box) == PAUSED
    engine.resume(box)
    assert engine.status(box) == RUNNING
    engine.kill(box, "USR1")
    wait_until(lambda: "told\n" in engine.logs(box))


def test_out_of_memory(engine: Engine) -> None:
    """The kernel kills what takes more memory than it may; a client is told."""
    status, told = engine.run_out_of_memory("oom", "a=xxxxxxxx; while :; do a=$a$a; done")
    assert status == 137
    assert told or not engine.tells_oom


def test_restart_of_what_is_above(engine: Engine, box: str) -> None:
    """Daemons die and come back: containers do not notice, and what happened meanwhile is known."""
    engine.start("ends", LISTENER)
    wait_until(lambda: "ready" in engine.logs("ends"))
    pid, ending = engine.pid(box), engine.pid("ends")
    with engine.nobody_above():
        os.kill(pid, signal.SIGUSR1)
        os.kill(ending, signal.SIGTERM)
        wait_until(lambda: not os.path.exists(f"/proc/{ending}"))
    assert engine.pid(box) == pid
    assert engine.status(box) == RUNNING
    assert engine.exec(box, "echo inside").out == "inside\n"
    wait_until(lambda: "told\n" in engine.logs(box))
    if engine.keeps_output:
        wait_until(lambda: "bye\n" in engine.logs("ends"))
    assert engine.end("ends") == 9


def test_death_of_the_shim(engine: Engine) -> None:
    """The container ends with its shim, and can be removed without a trace."""
    if not engine.watches_shim:
        pytest.skip("nobody watches podman's conmon")
    engine.start("orphan", LISTENER)
    pid = engine.pid("orphan")
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        parent = next(int(line.split()[1]) for line in file if line.startswith("PPid:"))
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"))
    wait_until(lambda: engine.status("orphan") == STOPPED)
    engine.end("orphan")
