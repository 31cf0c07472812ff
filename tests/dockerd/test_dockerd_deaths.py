# SPDX-License-Identifier: Apache-2.0
"""orlopd is killed before each single thing that an operation does to the world.

After the next start everything is settled: the operation can be asked for again, and once all is removed that
there is to remove, not a trace is left. The suite takes every point of every operation with `-m long`, else a few.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support import images
from support.containerd import processes_about, wait_until
from support.registry import running_registry
from support.stack import DOCKER, Stack

from orlop.oci.build import write_archive

pytestmark = pytest.mark.root

_DYING = str(Path(__file__).parent.parent / "support" / "dying_dockerd.py")
_SAMPLED = 1
_NEVER = 0


class Operation(NamedTuple):
    """`before` are commands that lead up to it, `settled` tells whether it has come about after a second try."""

    command: str
    before: tuple[str, ...]
    settled: Callable[[Stack], bool]


def there(name: str, kind: str = "container") -> Callable[[Stack], bool]:
    return lambda stack: stack.docker(kind, "inspect", name).status == 0


def gone(name: str, kind: str = "container") -> Callable[[Stack], bool]:
    return lambda stack: stack.docker(kind, "inspect", name).status == 1


def status(name: str, word: str) -> Callable[[Stack], bool]:
    return lambda stack: stack.docker("inspect", "-f", "{{.State.Status}}", name).out.strip() == word


def pulled(stack: Stack) -> bool:
    return "/made\n" in stack.docker("images", "--format", "{{.Repository}}").ok()


def in_network(name: str, count: int) -> Callable[[Stack], bool]:
    return lambda stack: (
        stack.docker("inspect", "-f", "{{len .NetworkSettings.Networks}}", name).out == f"{count}\n"
    )


RUN = "run -d --name box -p 8080:80 -v vol:/v busybox sleep 1000"
OPERATIONS = {
    "create": Operation("create --name box -v /anonymous -v vol:/v busybox true", (), there("box")),
    "start": Operation(
        "start box", ("create --name box -p 8080:80 -v vol:/v busybox sleep 1000",), status("box", "running")
    ),
    "start-in-network": Operation(
        "start box",
        ("network create net", "create --name box --network net busybox sleep 1000"),
        status("box", "running"),
    ),
    "stop": Operation("stop -t 0 box", (RUN,), status("box", "exited")),
    "restart": Operation("restart -t 0 box", (RUN,), status("box", "running")),
    "remove": Operation("rm -v box", ("create --name box -v /anonymous busybox true",), gone("box")),
    "remove-running": Operation("rm -fv box", (RUN,), gone("box")),
    "rename": Operation("rename box other", (RUN,), there("other")),
    "commit": Operation("commit box made:1", ("create --name box busybox true",), there("made:1", "image")),
    "tag": Operation("tag busybox made:1", (), there("made:1", "image")),
    "remove-image": Operation("rmi made:1", ("tag busybox made:1",), gone("made:1", "image")),
    "pull": Operation("pull REGISTRY/made:1", (), pulled),
    "load": Operation("load -i ARCHIVE", (), there("made:1", "image")),
    "import": Operation("import ARCHIVE made:1", (), there("made:1", "image")),
    "exec": Operation("exec box true", (RUN,), status("box", "running")),
    "pause": Operation("pause box", (RUN,), status("box", "paused")),
    "update": Operation("update --restart always box", (RUN,), status("box", "running")),
    "volume-create": Operation("volume create vol", (), there("vol", "volume")),
    "volume-remove": Operation("volume rm vol", ("volume create vol",), gone("vol", "volume")),
    "network-create": Operation("network create net", (), there("net", "network")),
    "network-remove": Operation("network rm net", ("network create net",), gone("net", "network")),
    "connect": Operation("network connect net box", ("network create net", RUN), in_network("box", 2)),
    "disconnect": Operation(
        "network disconnect net box", ("network create net", RUN, "network connect net box"), in_network("box", 1)
    ),
}


class Dying:
    """A stack whose dockerd can be told to die. `words` stand for what only the run knows."""

    def __init__(self, stack: Stack, directory: Path, words: dict[str, str]) -> None:
        self.stack = stack
        self._effects = directory / "effects"
        self._words = words

    def command(self, text: str) -> list[str]:
        """A command's words."""
        for word, value in self._words.items():
            text = text.replace(word, value)
        return text.split()

    def run(self, operation: Operation, die_at: int) -> list[str]:
        """Carry out an operation with a dockerd that dies at a point of it: what it has done until then."""
        self._effects.unlink(missing_ok=True)
        self.stack.stop()
        self.stack.program = [_DYING]
        self.stack.variables = {"DIE_AT": str(die_at), "EFFECTS": str(self._effects)}
        self.stack.start()
        for command in operation.before:
            self.stack.docker(*self.command(command)).ok()
        assert self.stack.process is not None
        self.stack.process.send_signal(signal.SIGUSR2)
        wait_until(lambda: "armed" in self._effects.read_text())
        asked = subprocess.run(
            [DOCKER, *self.command(operation.command)],
            env=self.stack.environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if die_at == _NEVER:
            assert asked.returncode == 0, asked.stderr
        return self._effects.read_text().splitlines()[1:]

    def revive(self) -> None:
        """Start the real one again, whether or not the other has died."""
        assert self.stack.process is not None
        self.stack.process.kill()
        self.stack.process.wait()
        self.stack.process = None
        self.stack.program, self.stack.variables = ["-m", "orlop.dockerd.main"], {}
        self.stack.start()

    def sweep(self) -> None:
        """Remove all that a user can remove."""
        stack = self.stack
        for kind, listing in (
            ("container", ("ps", "-aq")),
            ("volume", ("volume", "ls", "-q")),
            ("network", ("network", "ls", "-q", "--filter", "type=custom")),
        ):
            if names := stack.docker(*listing).ok().split():
                flags = ("-fv",) if kind == "container" else ()
                stack.docker(kind, "rm", *flags, *names).ok()
        for name in stack.docker("images", "--format", "{{.Repository}}:{{.Tag}}").ok().split():
            if name.endswith("made:1"):
                stack.docker("rmi", name).ok()
        stack.docker("image", "prune", "-f").ok()  # a second commit takes the name from the first, as in Docker

    def traces(self) -> dict[str, object]:
        """All that is there on the machine because of the stack."""
        stack = self.stack
        with stack.network():
            links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
            listening = subprocess.run(["ss", "-Htln"], capture_output=True, text=True, check=True).stdout
            rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        keys = [line.split()[0] for line in stack.containerd.ctr("snapshots", "ls").ok().splitlines()]
        return {
            "tasks": stack.containerd.ctr("tasks", "ls", "-q").ok(),
            "records": stack.containerd.ctr("containers", "ls", "-q").ok(),
            "snapshots": set(keys),
            "images": stack.containerd.ctr("images", "ls", "-q").ok(),
            "content": stack.containerd.ctr("content", "ls", "-q").ok(),
            "ingests": stack.containerd.ctr("content", "active").ok(),
            "files": {
                name: sorted(os.listdir(f"{root}/{name}"))
                for root, names in (
                    (stack.data_root, ("containers", "volumes")),
                    (stack.exec_root, ("containers", "netns")),
                )
                for name in names
            },
            "links": {line.split()[0] for line in links.splitlines()},
            "ports": sorted(line.split()[3] for line in listening.splitlines()),
            "rules": rules,
            "shims": [pid for pid, command in processes_about(stack.containerd.base) if " -id " in command],
        }


@pytest.fixture(scope="module")
def dying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dying]:
    with Stack() as stack:
        stack.load("busybox")
        stack.docker("run", "--rm", "-p", "8080:80", "busybox", "true").ok()  # starts orlop-netd
        directory = tmp_path_factory.mktemp("deaths")
        with open(directory / "made.tar", "wb") as archive:
            write_archive({"made:1": images.sized(1, 2)}, archive)
        with stack.network(), running_registry() as registry:
            registry.push(images.sized(1, 2), "made:1")
            yield Dying(stack, directory, {"REGISTRY": registry.host, "ARCHIVE": f"{directory}/made.tar"})


def points(effects: int, few: bool) -> list[int]:
    """Where to die: everywhere, or at a few places that differ from operation to operation."""
    every = list(range(1, effects + 1))
    return every if not few else [every[len(every) * (2 * part + 1) // (2 * _SAMPLED)] for part in range(_SAMPLED)]


def kill_at(dying: Dying, name: str, *, few: bool) -> None:
    operation = OPERATIONS[name]
    effects = dying.run(operation, _NEVER)
    dying.revive()
    dying.sweep()
    clean = dying.traces()
    assert effects, "nothing was seen"
    for point in points(len(effects), few):
        done = dying.run(operation, point)
        about = f"{name}, before {point} of {len(effects)}: {done[-1] if done else ''}"
        dying.revive()
        again = dying.stack.docker(*dying.command(operation.command))
        assert operation.settled(dying.stack), f"{about}: {again.err}\n{dying.stack.log()[-3000:]}"
        dying.sweep()
        try:
            wait_until(lambda: dying.traces() == clean)
        except AssertionError:
            pytest.fail(_difference(about, clean, dying.traces()))


def _difference(about: str, clean: dict[str, object], now: dict[str, object]) -> str:
    return f"{about}: " + "; ".join(
        f"{key}: {clean[key]} became {now[key]}" for key in clean if clean[key] != now[key]
    )


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_few_deaths(dying: Dying, name: str) -> None:
    kill_at(dying, name, few=True)


@pytest.mark.long
@pytest.mark.timeout(3600)  # dozens of deaths each
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_death(dying: Dying, name: str) -> None:
    kill_at(dying, name, few=False)
