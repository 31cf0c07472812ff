# SPDX-License-Identifier: Apache-2.0
"""What the commands that a shim waits for load: a slow import there is paid for at every container."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.bundles import Bundle, Runtime

from orlop.launchers import search_path

_SLOW = {
    "argparse", "asyncio", "dataclasses", "logging", "subprocess", "json", "socket", "selectors", "threading",
    "tempfile", "shutil", "pathlib", "concurrent", "multiprocessing", "http", "email", "urllib", "unittest",
}  # fmt: skip
# What it takes to work with the specification's types and with system calls that Python lacks.
_HEAVY = {"msgspec", "ctypes", "_ctypes", "struct", "orlop.oci.runtime", "orlop.libcontainer.container"}


@pytest.mark.parametrize("module", ["orlop.libcontainer.container", "orlop.runc.main", "orlop.runc.run"])
def test_slow_modules_stay_out(module: str) -> None:
    script = f"import {module}, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    bare = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name.partition(".")[0] for name in set(loaded) - set(bare)} & _SLOW == set()


def test_the_entry_point_loads_no_command() -> None:
    script = "import orlop.runc.main, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [name for name in loaded if name.startswith(("orlop.libcontainer", "orlop.cgroups", "msgspec"))] == []


def _run(ours: Runtime, options: list[str], text: str, *words: str) -> tuple[int, str]:
    """Run a command by a script of its own; exit code, and standard error."""
    command = [sys.executable, *options, "-IS", "-c", text, "--root", ours.root, *words]
    # A file, not a pipe: a container that stays keeps it open.
    with tempfile.TemporaryFile("w+") as said:
        null = subprocess.DEVNULL
        status = subprocess.run(command, stdin=null, stdout=null, stderr=said, check=False).returncode
        said.seek(0)
        return status, said.read()


def _loaded(ours: Runtime, *words: str) -> set[str]:
    """The modules that a command imports, by the interpreter's own account."""
    path = search_path(sys.executable)
    start = f"import sys; sys.path += {path!r}; from orlop.runc.entry import main; sys.exit(main())"
    status, said = _run(ours, ["-X", "importtime"], start, *words)
    assert status == 0, said
    return {line.rpartition("|")[2].strip() for line in said.splitlines() if "|" in line}


@pytest.mark.root
def test_what_each_command_loads(ours: Runtime, bundle: Bundle) -> None:
    container = ours.new_id(bundle.args("sleep", "1000"))
    bundle.write()
    created = _loaded(ours, "create", "--bundle", bundle.path, container)
    light = {"start": _loaded(ours, "start", container), "state": _loaded(ours, "state", container)}
    entered = _loaded(ours, "exec", container, "/bin/true")
    light["kill"] = _loaded(ours, "kill", container, "KILL")
    ours.await_status(container, "stopped")
    light["delete"] = _loaded(ours, "delete", container)

    assert {command: loaded & (_HEAVY | _SLOW) for command, loaded in light.items()} == {
        command: set() for command in light
    }
    assert (created | entered) & _SLOW == set()
    counts = {command: len(_ours(loaded)) for command, loaded in light.items()}
    counts |= {"create": len(_ours(created)), "exec": len(_ours(entered))}
    limits = {"start": 17, "state": 26, "kill": 24, "delete": 24, "create": 70, "exec": 72}
    assert {command: count for command, count in counts.items() if count > limits[command]} == {}


def _ours(loaded: set[str]) -> set[str]:
    return {name for name in loaded if name.partition(".")[0] == "orlop"}


_WATCHED = """
import mmap, os, sys
with open({seen!r}, "r+b") as file:
    seen = mmap.mmap(file.fileno(), 1 << 16)  # shared with the children, who close every descriptor
me = os.getpid()
def hook(event, details):
    if event == "import" and os.getpid() != me:
        seen.write(f"{{details[0]}} ".encode())
sys.addaudithook(hook)
sys.path += {path!r}
from orlop.runc.entry import main
sys.exit(main())
"""


@pytest.mark.root
@pytest.mark.parametrize("hook", ["exit 0", "exit 3", "kill -9 $$"])
def test_the_child_imports_nothing(ours: Runtime, bundle: Bundle, tmp_path: Path, hook: str) -> None:
    """Where a container's own files are all that could be imported, least of all in what goes wrong there."""
    script = Path(bundle.rootfs) / "hook"
    script.write_text(f"#!/bin/sh\n{hook}\n")
    script.chmod(0o755)
    hooks = [{"path": str(script)}]
    bundle.spec["hooks"] = {"createContainer": hooks, "startContainer": [{"path": "/hook"}]}
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    container = ours.new_id(bundle.args("true", ""))
    bundle.write()
    seen = tmp_path / "seen"
    seen.write_bytes(bytes(1 << 16))
    text = _WATCHED.format(seen=str(seen), path=search_path(sys.executable))
    status, stderr = _run(ours, [], text, "run", "--bundle", bundle.path, container)
    assert (status == 0) == (hook == "exit 0"), stderr
    said = {"exit 0": "", "exit 3": "exit status 3", "kill -9 $$": "signal: SIGKILL"}[hook]
    assert said in stderr
    assert seen.read_bytes().rstrip(b"\0") == b""
    assert not os.path.exists(f"{ours.root}/{container}")
