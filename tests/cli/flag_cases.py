# SPDX-License-Identifier: Apache-2.0
"""flags.tsv: each flag of `orlop`, an example of it, and what it makes of the requests (or of the output).

`python -m cli.flag_cases` (PYTHONPATH=tests) writes the table anew by the docker command, which is what says how a
flag has to come out; flags that it does not have are put down as `orlop` sends them, to be looked at.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from support.recording_daemon import RecordingDaemon

from orlop.cli import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orlop.cli.flags import Flag

TABLE = Path(__file__).with_name("flags.tsv")
FAILED = "failed: "
ORLOP = str(Path(sys.executable).with_name("orlop"))
HEADER = "command\tflag\texample\teffect\tas\n"
# A command's words before and after its flags; commands without a daemon's part have tests of their own.
WORDS: dict[str, tuple[str, str]] = {
    "run": ("run", "busybox"),
    "create": ("create", "busybox"),
    "exec": ("exec", "box true"),
    "ps": ("ps", ""),
    "pull": ("pull", "busybox"),
    "images": ("images", ""),
    "version": ("version", ""),
    "info": ("info", ""),
    "attach": ("attach", "box"),
    "commit": ("commit", "box made"),
    "events": ("events", ""),
    "export": ("export", "box"),
    "history": ("history", "busybox"),
    "import": ("import", "http://h/x made"),
    "inspect": ("inspect", "box"),
    "kill": ("kill", "box"),
    "load": ("load", ""),
    "logs": ("logs", "box"),
    "login": ("login -u u -p s", "r.example"),
    "push": ("push", "r.example/made"),
    "restart": ("restart", "box"),
    "rm": ("rm", "box"),
    "rmi": ("rmi", "busybox"),
    "save": ("save", "busybox"),
    "search": ("search", "busybox"),
    "start": ("start", "box"),
    "stats": ("stats", "box"),
    "stop": ("stop", "box"),
    "update": ("update", "box"),
    "container prune": ("container prune -f", ""),
    "image inspect": ("image inspect", "busybox"),
    "network connect": ("network connect", "net box"),
    "network create": ("network create", "net"),
    "network disconnect": ("network disconnect", "net box"),
    "image prune": ("image prune -f", ""),
    "network inspect": ("network inspect", "net"),
    "network ls": ("network ls", ""),
    "network prune": ("network prune -f", ""),
    "network rm": ("network rm", "net"),
    "system df": ("system df", ""),
    "system events": ("system events", ""),
    "system info": ("system info", ""),
    "system prune": ("system prune -f", ""),
    "volume create": ("volume create", "vol"),
    "volume inspect": ("volume inspect", "vol"),
    "volume ls": ("volume ls", ""),
    "volume prune": ("volume prune -f", ""),
    "volume rm": ("volume rm", "vol"),
    "checkpoint create": ("checkpoint create", "box check"),
    "checkpoint ls": ("checkpoint ls", "box"),
    "checkpoint rm": ("checkpoint rm", "box check"),
    "plugin disable": ("plugin disable", "plug"),
    "plugin enable": ("plugin enable", "plug"),
    "plugin inspect": ("plugin inspect", "plug"),
    "plugin install": ("plugin install --grant-all-permissions", "plug"),
    "plugin ls": ("plugin ls", ""),
    "plugin push": ("plugin push", "r.example/plug"),
    "plugin rm": ("plugin rm", "plug"),
    "plugin upgrade": ("plugin upgrade --grant-all-permissions", "plug"),
    "container inspect": ("container inspect", "box"),
}
_KINDS = {"int": "7", "decimal": "1.5", "bytes": "64m", "duration": "7s", "map": "a=1"}
_VALUES = {
    "add-host": "h:192.0.2.7",
    "attach": "stderr",
    "blkio-weight": "70",
    "blkio-weight-device": "/dev/null:70",
    "cap-add": "NET_ADMIN",
    "cap-drop": "KILL",
    "cgroupns": "private",
    "change": "USER=x",
    "device": "/dev/null:/dev/x:r",
    "device-cgroup-rule": "c 1:3 r",
    "device-read-bps": "/dev/null:1mb",
    "device-read-iops": "/dev/null:7",
    "device-write-bps": "/dev/null:1mb",
    "device-write-iops": "/dev/null:7",
    "dns": "192.0.2.7",
    "env": "A=1",
    "env-file": "FILE",
    "label-file": "FILE",
    "expose": "7",
    "gpus": "all",
    "group-add": "7",
    "health-cmd": "true",
    "ip": "192.0.2.7",
    "ip6": "2001:db8::7",
    "link-local-ip": "169.254.1.7",
    "label": "b=2",
    "link": "other:o",
    "log-opt": "max-size=1m",
    "mac-address": "92:d0:c6:0a:29:33",
    "mount": "type=volume,src=v,dst=/v,readonly",
    "memory": "64m",
    "publish": "127.0.0.1:80:90/udp",
    "pull": "always",
    "platform": "linux/arm64",
    "restart": "on-failure:7",
    "security-opt": "no-new-privileges",
    "storage-opt": "size=1g",
    "sysctl": "net.core.somaxconn=7",
    "tmpfs": "/t:size=1m",
    "ulimit": "nofile=7:70",
    "volume": "/a:/b:ro",
    "volumes-from": "other:ro",
    "user": "7:8",
    "workdir": "/w",
    "detach-keys": "ctrl-a",
    "filter": "label=a",
    "since": "1970-01-01T00:00:07Z",
    "until": "1970-01-01T00:00:09Z",
    "tail": "7",
    "signal": "USR1",
    "subnet": "192.0.2.0/24",
    "gateway": "192.0.2.1",
    "ip-range": "192.0.2.128/25",
    "aux-address": "h=192.0.2.9",
    "format": "json",
    "input": "FILE",
    "output": "OUT",
    "type": "container",
    "username": "v",
    "password": "t",
    "mount-add": "type=bind,src=/a,dst=/b",
    "mount-rm": "/b",
    "publish-add": "80:90",
    "publish-rm": "90/tcp",
    "pid": "host",
    "userns": "host",
    "uts": "host",
    "sig-proxy": "=false",
    "cidfile": "OUT",
    "ipv4": "=false",
    "health-start-interval": "7s",
    "opt": "a=1",
    "driver-opt": "a=1",
    "volume-driver": "drv",
    "isolation": "default",
    "pause": "=false",
    "human": "=false",
}
_BESIDE = {
    ("network create", "gateway"): "--subnet 192.0.2.0/24 ",
    ("network create", "ip-range"): "--subnet 192.0.2.0/24 ",
    ("network create", "aux-address"): "--subnet 192.0.2.0/24 ",
    ("run", "ip"): "--network net ",
    ("create", "ip"): "--network net ",
    ("create", "ip6"): "--network net ",
    ("create", "link-local-ip"): "--network net ",
    ("create", "network-alias"): "--network net ",
    ("create", "net-alias"): "--network net ",
    ("start", "detach-keys"): "--attach ",
    ("start", "checkpoint-dir"): "--checkpoint x ",
}
_SPECIAL = {
    ("events", "filter"): "type=container",
    ("system events", "filter"): "type=container",
    ("search", "filter"): "is-official=true",
    ("plugin ls", "filter"): "enabled=true",
    ("network create", "label"): "b=2",
    ("network connect", "link"): "other:o",
    ("load", "platform"): "linux/arm64",
    ("plugin install", "alias"): "other",
    ("version", "format"): "{{.Server.Version}}",
    ("info", "format"): "{{.ID}}",
    ("system info", "format"): "{{.ID}}",
    ("container prune", "filter"): "until=7",
    ("image prune", "filter"): "until=7",
}

_OTHER_WORDS = {
    ("stats", "all"): ("stats --no-stream", ""),
    ("stats", "format"): ("stats --no-stream", "box"),
    ("stats", "no-trunc"): ("stats --no-stream", "box"),
    ("stats", "no-stream"): ("stats --format json --no-stream", "box"),
    ("login", "password-stdin"): ("login -u u", "r.example"),
    ("login", "password"): ("login -u u", "r.example"),
    ("volume create", "name"): ("volume create", ""),
    ("plugin install", "grant-all-permissions"): ("plugin install", "plug"),
    **{
        (f"{kind} prune", "force"): (f"{kind} prune", "")
        for kind in ("container", "image", "network", "system", "volume")
    },
}


_OWN = {
    ("run", "detach"): "orlop: docker's answer depends on who is first",
    ("create", "mac-address"): "orlop: daemons before API 1.44 are told, too",
    ("create", "pull"): "orlop: names are said as they are given",
    ("load", "quiet"): "orlop: docker sends it also without the flag",
    ("start", "attach"): "orlop: what is not wanted is said, too",
    ("attach", "no-stdin"): "orlop: what is not wanted is said, too",
    ("network inspect", "verbose"): "orlop: 1 is true",
    ("plugin install", "disable"): "orlop: there are no managed plugins",
    ("update", "kernel-memory"): "orlop: no kernel since 5.16 has it",
    ("plugin install", "alias"): "orlop: there are no managed plugins",
}
"""What is not to come out as with docker, and why."""


class Case(NamedTuple):
    """One row: the example stands between the command's words; `example` is as a shell would read it."""

    command: str
    flag: str
    example: str
    effect: dict[str, Any]
    source: str = ""


def rows() -> list[Case]:
    """The table."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()[1:]
    return [Case(*row[:3], json.loads(row[3]), row[4]) for row in (line.split("\t") for line in lines)]


def flags_of(command: str) -> list[Flag]:
    """What the command declares."""
    module, name, _ = tree.COMMANDS[command]
    found: list[Flag] = getattr(import_module(f"orlop.cli.commands.{module}"), name).flags
    return found


def examples() -> Iterator[Case]:
    """Every flag of every command that has words here; `run` only what `create` has not."""
    created = {flag.name for flag in flags_of("create")}
    for command in WORDS:
        for flag in flags_of(command):
            if command == "run" and flag.name in created:
                continue
            special = _SPECIAL.get((command, flag.name))
            value = special if special is not None else _VALUES.get(flag.name, _KINDS.get(flag.kind, "x"))
            if flag.kind != "bool":
                value = f" {value}"
            elif not value.startswith("="):
                value = ""
            example = f"{_BESIDE.get((command, flag.name), '')}--{flag.name}{value}"
            yield Case(command, flag.name, example, {})


class Effects:
    """Finds what an example changes; `run` is a command line, whose requests `daemon` gets."""

    def __init__(self, run: Callable[[list[str]], str], daemon: RecordingDaemon, files: Path) -> None:
        self._run, self._daemon, self._files = run, daemon, files
        self._plain: dict[tuple[str, ...], tuple[str, dict[str, Any]]] = {}

    def of(self, case: Case) -> dict[str, Any]:
        """What it changes in the requests of the command, or else in what it prints, or why it fails."""
        texts = _OTHER_WORDS.get((case.command, case.flag), WORDS[case.command])
        before, after = (text.split() for text in texts)
        beside = _BESIDE.get((case.command, case.flag), "").split()
        (self._files / "FILE").write_text("K=V\n")
        plain_out, plain = self._without((*before, *beside, *after))
        made = self._files / "OUT"
        made.unlink(missing_ok=True)
        words = [str(self._files / word) if word in ("FILE", "OUT") else word for word in _split(case.example)]
        out = self._run([*before, *words, *after])
        changed = self._daemon.take()
        if FAILED in out:
            return {
                "fails": out.partition(FAILED)[2].splitlines()[0].removeprefix("docker: ").removeprefix("orlop: ")
            }
        places = sorted({*plain, *changed})
        found = {place: changed.get(place) for place in places if plain.get(place) != changed.get(place)}
        if made.exists():
            found["file"] = made.read_text()
        if not found and plain_out != out:
            found = {"prints": _parsed(out)}
        named = re.sub(r"\d+ years ago", "NN years ago", json.dumps(found, ensure_ascii=False))
        named = named.replace(str(self._files), "<files>")
        return json.loads(named.replace(self._daemon.host, "<host>"))  # type: ignore[no-any-return]

    def _without(self, words: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
        if words not in self._plain:
            self._plain[words] = self._run(list(words)), self._daemon.take()
        return self._plain[words]


def _parsed(out: str) -> Any:
    """What a command has printed; JSON as what it says."""
    try:
        return [json.loads(line) for line in out.splitlines()]
    except ValueError:
        return out


def _split(example: str) -> list[str]:
    """Words; a value of several words follows its flag."""
    if example.startswith("--device-cgroup-rule "):
        name, _, value = example.partition(" ")
        return [name, value]
    return example.split()


def by_program(program: str, host: str, files: Path) -> Callable[[list[str]], str]:
    """A runner of another command line."""

    def run(argv: list[str]) -> str:
        environment = {**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": str(files / "config"), "TZ": "UTC"}
        done = subprocess.run(
            [program, *argv],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return done.stdout if done.returncode == 0 else f"{FAILED}{done.stderr}"

    return run


def main() -> None:
    """Write the table."""
    with tempfile.TemporaryDirectory() as name:
        files = Path(name)
        daemon = RecordingDaemon(f"{name}/s")
        docker, orlop = (Effects(by_program(it, daemon.host, files), daemon, files) for it in ("docker", ORLOP))
        lines = []
        for case in examples():
            source, found = "docker", docker.of(case)
            if (reason := _OWN.get(case[:2])) or "unknown flag" in found.get("fails", ""):
                source, found = reason or "orlop", orlop.of(case)
            text = json.dumps(found, ensure_ascii=False)
            lines.append("\t".join((case.command, case.flag, case.example, text, source)) + "\n")
        daemon.close()
    TABLE.write_text(HEADER + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
