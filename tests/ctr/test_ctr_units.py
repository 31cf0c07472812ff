# SPDX-License-Identifier: Apache-2.0
"""Flags, columns, users and specs of orlop-ctr, and what it loads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from orlop.ctr import table
from orlop.ctr.container import CONTAINER_FLAGS
from orlop.ctr.flags import Flag, duration, parse, usage
from orlop.ctr.labels import label_arguments
from orlop.ctr.main import main
from orlop.ctr.registry import REGISTRY_FLAGS, registry_auth
from orlop.ctr.spec import build_spec, parse_mount
from orlop.ctr.users import resolve_user
from orlop.engine import credentials
from orlop.errdefs import InvalidArgumentError
from orlop.oci.distribution import AuthConfig
from orlop.oci.image import ImageConfig
from orlop.oci.runtime import IDMapping, Spec, User

FLAGS = (
    Flag("bool b", bool),
    Flag("name n", str, "default"),
    Flag("many", list),
    Flag("number", int),
    Flag("wait", duration),
)


def test_flags() -> None:
    words = ["-b", "--many", "a", "-many=b", "--number=-3", "-wait", "1m30s", "-n", "x", "rest", "--bool"]
    values = parse(FLAGS, words)
    assert (values["bool"], values["many"], values["number"], values["wait"]) == (True, ["a", "b"], -3, 90.0)
    assert (values["name"], values.arguments) == ("x", ["rest", "--bool"])
    assert values.given("name")
    values = parse(FLAGS, ["--bool=false", "--", "-b"])
    assert (values["bool"], values["name"], values["many"], values.arguments) == (False, "default", [], ["-b"])
    assert not values.given("name")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--nothing"], "not defined: -nothing"),
        (["--name"], "needs an argument: -name"),
        (["--number", "x"], 'invalid value "x" for flag -number'),
        (["--wait", "5"], "for flag -wait: expected a duration"),
        (["--bool=maybe"], "for flag -bool"),
    ],
)
def test_bad_flags(words: list[str], complaint: str) -> None:
    with pytest.raises(InvalidArgumentError, match=complaint):
        parse(FLAGS, words)


def test_flag_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_NAME", "from-env")
    flag = (Flag("name", str, "default", env="SOME_NAME"),)
    assert parse(flag, [])["name"] == "from-env"
    assert parse(flag, ["--name", "given"])["name"] == "given"


def test_usage_and_missing_arguments() -> None:
    assert "--bool, -b " in usage("ctr x", "[flags]", FLAGS, "does x")
    with pytest.raises(InvalidArgumentError, match="container id must be provided"):
        parse(FLAGS, []).need("container id")


def test_columns() -> None:
    rows = [("TASK", "PID"), ("a-long-name", "1")]
    assert table.lines(rows) == "TASK           PID    \na-long-name    1      \n"
    assert table.lines(rows, padding=1, minimum=1, trail=False) == "TASK        PID\na-long-name 1\n"
    assert [table.size_text(size) for size in (5, 2048, 3 << 20)] == ["5.0 B", "2.0 KiB", "3.0 MiB"]
    assert table.label_text({"b": "2", "a": "1"}) == "a=1,b=2"
    stamp = Timestamp(seconds=1_700_000_000, nanos=120_000_000)
    assert table.go_time(stamp) == "2023-11-14 22:13:20.12 +0000 UTC"
    assert table.time_text(stamp) == "2023-11-14T22:13:20Z"
    assert label_arguments(["a=b=c", "d", "e="]) == {"a": "b=c", "d": "true", "e": ""}


def _spec(*words: str, image: ImageConfig | None = None) -> Spec:
    values = parse(CONTAINER_FLAGS, words)
    return build_spec(values, "id", "space", image, values.arguments)


def _process(spec: Spec) -> tuple[list[str], list[str], str]:
    assert spec.process is not None
    return spec.process.args, spec.process.env, spec.process.cwd


def test_spec_of_an_image() -> None:
    image = ImageConfig(env=["PATH=/x", "A=1"], entrypoint=["run"], cmd=["it"], working_dir="/w")
    args, env, cwd = _process(_spec(image=image))
    assert (args, env, cwd) == (["run", "it"], ["PATH=/x", "A=1"], "/w")
    args, env, cwd = _process(_spec("--env", "A=2", "--env", "B=3", "--cwd", "/v", "other", image=image))
    assert (args, env, cwd) == (["other"], ["PATH=/x", "A=2", "B=3"], "/v")
    args, env, _ = _process(_spec("--env", "A", "other", image=image))
    assert env == ["PATH=/x"]


def test_spec_flags() -> None:
    words = "--cpus 1.5 --memory-limit 1000 --hostname h --read-only --cap-add CAP_SYS_ADMIN --cap-drop CAP_KILL"
    words += " --net-host --with-ns ipc:/proc/1/ns/ipc --rlimit-nofile 5:6 --uidmap 0:1000:10 -t x"
    spec = _spec(*words.split())
    assert spec.process is not None
    assert spec.linux is not None
    assert spec.linux.resources is not None
    assert spec.linux.resources.cpu is not None
    assert spec.linux.resources.memory is not None
    assert (spec.linux.resources.cpu.quota, spec.linux.resources.cpu.period) == (150_000, 100_000)
    assert spec.linux.resources.memory.limit == 1000
    assert spec.hostname == "h"
    assert spec.root is not None
    assert spec.root.readonly
    assert spec.process.terminal
    assert "TERM=xterm" in spec.process.env
    assert spec.process.capabilities is not None
    assert "CAP_SYS_ADMIN" in spec.process.capabilities.effective
    assert "CAP_KILL" not in spec.process.capabilities.bounding
    kinds = {each.type: each.path for each in spec.linux.namespaces}
    assert "network" not in kinds
    assert kinds["ipc"] == "/proc/1/ns/ipc"
    assert kinds["user"] == ""
    assert spec.linux.uid_mappings == [IDMapping(container_id=0, host_id=1000, size=10)]
    assert [(limit.soft, limit.hard) for limit in spec.process.rlimits] == [(5, 6)]
    assert spec.linux.cgroups_path == "/space/id"
    cgroup = _spec("--cgroup", "", "x").linux
    assert cgroup is not None
    assert cgroup.cgroups_path == ""


def test_privileged_spec() -> None:
    spec = _spec("--privileged", "x")
    assert spec.linux is not None
    assert spec.linux.masked_paths == spec.linux.readonly_paths == []
    assert any(device.path == "/dev/null" for device in spec.linux.devices)
    assert spec.process is not None
    assert not spec.process.no_new_privileges


def test_seccomp_spec() -> None:
    spec = _spec("--seccomp", "x")
    assert spec.linux is not None
    assert spec.linux.seccomp is not None
    assert spec.linux.seccomp.syscalls


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "no command"),
        (["--cap-add", "SYS_ADMIN", "x"], "CAP_"),
        (["--with-ns", "ipc", "x"], "with-ns"),
        (["--with-ns", "odd:/x", "x"], "with-ns"),
        (["--cpus", "1", "--cpu-quota", "5", "x"], "separately"),
        (["--rlimit-nofile", "a", "x"], "rlimit-nofile"),
        (["--uidmap", "0:1", "x"], "uidmap"),
        (["--device", "/etc/passwd", "x"], "not a device"),
        (["--seccomp-profile", "/x", "x"], "seccomp must be set"),
        (["--annotation", "x", "x"], "annotation"),
    ],
)
def test_bad_specs(words: list[str], complaint: str) -> None:
    with pytest.raises(InvalidArgumentError, match=complaint):
        _spec(*words)


def test_mounts() -> None:
    mount = parse_mount("type=bind,src=/a,dst=/b,options=rbind:ro")
    assert (mount.type, mount.source, mount.destination, mount.options) == ("bind", "/a", "/b", ["rbind", "ro"])
    for text in ("type", "odd=1,dst=/b", "type=bind"):
        with pytest.raises(InvalidArgumentError):
            parse_mount(text)


def test_users(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0:r:/:/bin/sh\nu:x:5:6:u:/:/bin/sh\nbroken\n")
    (etc / "group").write_text("root:x:0:\ng:x:9:u\nh:x:10:root,u\n")
    entered: list[None] = []

    @contextmanager
    def rootfs() -> Iterator[str]:
        entered.append(None)
        yield str(tmp_path)

    assert resolve_user("7:8", rootfs) == User(uid=7, gid=8)
    assert not entered
    assert resolve_user("u", rootfs) == User(uid=5, gid=6, additional_gids=[6, 9, 10])
    assert resolve_user("5", rootfs) == User(uid=5, gid=6, additional_gids=[6, 9, 10])
    assert resolve_user("u:h", rootfs).gid == 10
    assert resolve_user("77", rootfs) == User(uid=77, gid=0)
    for text in ("none", "u:none"):
        with pytest.raises(InvalidArgumentError, match="none"):
            resolve_user(text, rootfs)
    # A link in the root file system does not lead out of it.
    (etc / "passwd").unlink()
    (etc / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(InvalidArgumentError):
        resolve_user("root", rootfs)


def test_command_lines_that_fail(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["nothing"], ["tasks", "nothing"], ["--nothing"], ["tasks", "ls", "--nothing"]):
        assert main(words) == (3 if words[-1] == "nothing" else 1)
        assert "nothing" in capsys.readouterr().err
    assert main(["-a", "/tmp/oc-nowhere", "version"]) == 1
    assert "ctr: " in capsys.readouterr().err
    assert main(["tasks"]) == 0
    assert "attach" in capsys.readouterr().out
    assert main(["run", "--help"]) == 0
    assert "--null-io" in capsys.readouterr().out


def test_imports() -> None:
    """A command loads what it uses, and nothing of the daemon."""
    code = (
        "import sys; from orlop.ctr.main import main; main(['-a', '/tmp/oc-nowhere', 'tasks', 'ls']);"
        "print(*[name for name in sys.modules if name.startswith(('orlop.', 'aiohttp', 'argparse'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    loaded = done.stdout.split()
    assert "orlop.containerd.client.tasks" in loaded
    for name in loaded:
        assert not name.startswith(("aiohttp", "orlop.registry", "orlop.containerd.plugins", "orlop.shim"))
    for name in ("orlop.containerd.server", "orlop.containerd.client.pull", "orlop.api.content_pb2", "argparse"):
        assert name not in loaded


def test_credentials_of_registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--user`, else config.json, else none."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def auth(domain: str, *words: str) -> AuthConfig | None:
        return registry_auth(parse(REGISTRY_FLAGS, list(words)), domain)

    assert auth("r.example") is None
    credentials.store("r.example", "me", "secret")
    credentials.store(credentials.HUB, "hub", "", "token")
    known = auth("r.example")
    assert known is not None and known.credentials() == ("me", "secret")
    hub = auth("docker.io")
    assert hub is not None and hub.identitytoken == "token"
    given = auth("r.example", "--user", "you:pass")
    assert given is not None and given.credentials() == ("you", "pass")
