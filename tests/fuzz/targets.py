# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: functions that take any bytes and raise only when a promise is broken.

A promise: whatever comes in, a parser either answers or raises an OrlopError of one line that says what is wrong;
what it answers is well formed. Hypothesis and atheris both drive these functions.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import msgspec

from orlop.cgroups import devices, plan, unit_properties
from orlop.cgroups.hierarchies import container_paths, parse_mountinfo
from orlop.codec import decode
from orlop.ctr.users import resolve_user
from orlop.errdefs import InvalidArgumentError, OrlopError
from orlop.libcontainer import passwd, prepare
from orlop.libcontainer.facts import validate_id
from orlop.libcontainer.rootfs.plan import plan_rootfs
from orlop.libcontainer.seccomp_program import compile_program
from orlop.libcontainer.validate import validate_spec
from orlop.oci.runtime import Resources, Seccomp, Spec, decode_spec
from orlop.runc.commands import COMMANDS, Flag
from orlop.runc.parse import parse
from orlop.unix import tables

Target = Callable[[bytes], None]
_SCRATCH = os.environ.get("TMPDIR", "/dev/shm")
_RETURN, _JUMP = 0x06, 0x05


def _clear(error: OrlopError) -> None:
    text = str(error)
    assert text.strip(), "an error without words"
    assert "Traceback" not in text
    text.encode("utf-8", "replace")


def _attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function answers; None where it refuses in words."""
    try:
        return function(*arguments)
    except OrlopError as error:
        _clear(error)
        return None


def config(data: bytes) -> None:
    """A config.json, as far as a creation goes before it touches anything."""
    spec = _attempt(decode_spec, data)
    if spec is not None:
        _attempt(_plan_all, spec)


def refusal(data: bytes) -> str | None:
    """What is said of a config.json that is not taken; None of one that is."""
    try:
        spec = decode_spec(data)
        validate_spec(spec, _bundle())
        assert spec.linux is not None and spec.process is not None
        resources = prepare.effective_resources(spec.linux)
        plan_rootfs(spec, _bundle(), {"": "/sys/fs/cgroup/x"})
        prepare.prepare_program(spec.process, None, 0, spec.linux, is_exec=False)
        prepare.personality_of(spec.linux.personality)
        if spec.linux.cgroups_path:
            container_paths(spec.linux.cgroups_path, unified=False)
        plan.plan_v1(_without_unified(resources), False)
        plan.plan_v2(resources, False)
        access = devices.evaluate(resources.devices)
        devices.writes_v1(access, None)
        devices.program_v2(access)
    except OrlopError as error:
        return str(error)
    return None


def _plan_all(spec: Spec) -> None:
    validate_spec(spec, _bundle())
    assert spec.linux is not None and spec.process is not None
    resources = prepare.effective_resources(spec.linux)
    steps = plan_rootfs(spec, _bundle(), {"": "/sys/fs/cgroup/x"})
    assert all(step.destination.startswith("/") and step.destination != "/" for step in steps.mounts)
    prepare.prepare_program(spec.process, None, 0, spec.linux, is_exec=False)
    prepare.personality_of(spec.linux.personality)
    if spec.linux.cgroups_path:
        for path in container_paths(spec.linux.cgroups_path, unified=False).values():
            assert path.startswith("/sys/fs/cgroup/") and "/../" not in path + "/"
    _plan_resources(resources)


def resources(data: bytes) -> None:
    """What `update --resources` takes."""
    found = _attempt(decode, data, Resources)
    if found is not None:
        _attempt(_plan_resources, found)


def _without_unified(asked: Resources) -> Resources:
    """What version 1 may be asked for."""
    return msgspec.structs.replace(asked, unified={})


def _plan_resources(found: Resources) -> None:
    for make, asked in ((plan.plan_v1, _without_unified(found)), (plan.plan_v1, found), (plan.plan_v2, found)):
        for update in (False, True):
            for controller, file, value in _attempt(make, asked, update) or []:
                assert "/" not in file and "\0" not in value, (controller, file, value)
    _attempt(unit_properties.properties_v1, found, 252, True)
    _attempt(unit_properties.properties_v2, found, 252)
    access = _attempt(devices.evaluate, found.devices)
    if access is not None:
        _attempt(devices.writes_v1, access, None)
        _attempt(devices.program_v2, access)


def seccomp(data: bytes) -> None:
    """A profile: its program is one that the kernel takes."""
    profile = _attempt(decode, data, Seccomp)
    if profile is None:
        return
    program = _attempt(compile_program, profile)
    if program is None:
        return
    code = list(struct.iter_unpack("=HBBI", program))
    assert 0 < len(code) <= 4096
    for place, (operation, yes, no, k) in enumerate(code):
        if operation == _JUMP:
            assert place + 1 + k < len(code)
        elif operation & 0x07 == _JUMP:
            assert place + 1 + max(yes, no) < len(code)
    assert code[-1][0] == _RETURN


def mountinfo(data: bytes) -> None:
    """Names that users choose add no hierarchy, whatever they are: the kernel escapes a few characters only."""
    name = data.decode("utf-8", "surrogateescape").replace("\\", "\\134")
    for character, code in (("\n", "\\012"), ("\t", "\\011"), (" ", "\\040"), ("\0", "")):
        name = name.replace(character, code)
    rows = [
        f"30 23 0:26 / /mnt/{name} rw shared:1 - fuse {name} rw,user_id=0",
        "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
        f"32 23 0:28 /{name} /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
    ]
    with tempfile.NamedTemporaryFile(dir=_SCRATCH) as file:
        file.write("".join(f"{row}\n" for row in rows).encode("utf-8", "surrogateescape"))
        file.flush()
        found = parse_mountinfo(tables.rows(file.name))
    assert [(controllers, point) for controllers, point, _ in found] == [
        (("cpu",), "/sys/fs/cgroup/cpu"), ((), "/sys/fs/cgroup/unified"),
    ]  # fmt: skip


def users(data: bytes) -> None:
    """An image's passwd, which is its group file, too."""
    user_databases(data, data)


def user_databases(passwd_file: bytes, group_file: bytes) -> None:
    """A user that is named is found as it stands there, or refused."""
    with _rootfs(passwd_file, group_file) as root:

        @contextmanager
        def opened() -> Any:
            yield root

        for text in ("jo", "0", "1000", "1000:staff", "jo:1000", "nobody-here"):
            user = _attempt(resolve_user, text, opened)
            if user is not None:
                assert 0 <= user.uid < 2**31 and 0 <= user.gid < 2**31
                assert all(0 <= gid < 2**31 for gid in user.additional_gids)
        _attempt(_resolve_for_docker, root)
    assert passwd.home_in(passwd_file.decode("utf-8", "surrogateescape"), 0)


def _resolve_for_docker(root: str) -> None:
    from orlop.dockerd import rootfs

    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for text in ("jo", "0", "1000", "1000:staff", "jo:1000"):
            user = _attempt(rootfs.resolve_user, fd, text, ["staff", "10"])
            if user is not None:
                assert all(0 <= number < 2**31 for number in (user.uid, user.gid, *user.additional_gids))
    finally:
        os.close(fd)


@contextmanager
def _rootfs(passwd_file: bytes, group_file: bytes) -> Any:
    with tempfile.TemporaryDirectory(dir=_SCRATCH) as root:
        os.mkdir(f"{root}/etc")
        for name, content in (("passwd", passwd_file), ("group", group_file)):
            with open(f"{root}/etc/{name}", "wb") as file:
                file.write(content)
        yield root


def command_line(data: bytes) -> None:
    """Words for every command."""
    words = data.decode("utf-8", "surrogateescape").split("\0")
    for name, command in COMMANDS.items():
        _parse(words, name, command[5])
    _attempt(validate_id, words[0])


def _parse(words: list[str], name: str, known: tuple[Flag, ...]) -> None:
    try:
        flags, _ = parse(words, known, stop=name in ("exec", "ps"))
    except InvalidArgumentError as error:
        _clear(error)
        return
    if name == "update":
        from orlop.runc.control import resources_of

        found = _attempt(resources_of, flags)
        if found is not None:
            _plan_resources(found)


_directory: list[str] = []


def _bundle() -> str:
    """A bundle directory with an empty root filesystem, for the whole run."""
    if not _directory:
        _directory.append(os.path.realpath(tempfile.mkdtemp(prefix="orlop-fuzz-", dir=_SCRATCH)))
        os.mkdir(f"{_directory[0]}/rootfs")
    return _directory[0]


TARGETS: dict[str, Target] = {
    target.__name__: target for target in (config, resources, seccomp, mountinfo, users, command_line)
}


def seeds(name: str) -> list[bytes]:
    """Well-formed input to start from."""
    from orlop.codec import encode
    from orlop.oci.seccomp import default_profile
    from orlop.runc.spec import example

    limits = {
        "memory": {"limit": 1 << 20, "swap": -1}, "cpu": {"quota": 1000, "period": 10000, "cpus": "0-1"},
        "pids": {"limit": 10}, "unified": {"memory.high": "max"}, "rdma": {"mlx": {"hcaHandles": 1}},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1}],
        "blockIO": {"weight": 10, "weightDevice": [{"major": 8, "minor": 0, "weight": 100}]},
        "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "access": "r"}],
        "network": {"classID": 1, "priorities": [{"name": "lo", "priority": 1}]},
    }  # fmt: skip
    return {
        "config": [encode(example()), encode(example(rootless=True))],
        "resources": [json.dumps(limits).encode()],
        "seccomp": [encode(default_profile([], "amd64", (6, 1)))],
        "mountinfo": [b"a b\t\r\x0b"],
        "users": [b"root:x:0:0:root:/root:/bin/sh\njo:x:1000:1000::/home/jo:/bin/sh\nroot:x:0:\nstaff:x:50:jo\n"],
        "command_line": [b"--force\0x", b"-e\0A=b\0-u\x001:2\0x\0true", b"--memory\x0010m\0x"],
    }[name]
