# SPDX-License-Identifier: Apache-2.0
"""Profiles, where the kernel runs AppArmor: Debian's does, in `tests/vm/run` too."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest
from support.apparmor import needs_apparmor
from support.bundles import Bundle, Runtime

from orlop.oci.apparmor import profile_text

pytestmark = [pytest.mark.root, needs_apparmor]
_TEXT = """
profile @NAME@ flags=(attach_disconnected,mediate_deleted) {
  file, capability, network, signal, deny /forbidden rw,
}
"""
_SCRIPT = "cat /proc/self/attr/apparmor/current; echo x > /allowed; echo x > /forbidden"


@contextlib.contextmanager
def _loaded(text: str) -> Iterator[None]:
    subprocess.run(["apparmor_parser", "-Kr"], input=text, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["apparmor_parser", "-R"], input=text, text=True, check=True)


@pytest.fixture(scope="module")
def profile() -> Iterator[str]:
    """A profile that is loaded: all files but /forbidden."""
    name = f"orlop-test-{os.getpid()}"
    with _loaded(_TEXT.replace("@NAME@", name)):
        yield name


def test_of_a_containers_process(runtime: Runtime, bundle: Bundle, profile: str) -> None:
    bundle.process["apparmorProfile"] = profile
    result = runtime.run(bundle.args(_SCRIPT))
    assert result.out == f"{profile} (enforce)\n"
    assert (result.status, "/forbidden: Permission denied" in result.err) == (1, True), result.err
    assert os.path.exists(f"{bundle.rootfs}/allowed")


def test_of_an_exec(runtime: Runtime, bundle: Bundle, profile: str) -> None:
    """The container's, or another one."""
    bundle.process["apparmorProfile"] = profile
    confined = runtime.start(bundle.args("sleep", "1000"))
    assert runtime("exec", confined, "cat", "/proc/self/attr/current").ok() == f"{profile} (enforce)\n"
    other = runtime.bundle()
    free = runtime.start(other.args("sleep", "1000"))
    assert runtime("exec", free, "cat", "/proc/self/attr/current").ok() == "unconfined\n"
    result = runtime("exec", "--apparmor", profile, free, "sh", "-c", _SCRIPT)
    assert result.out == f"{profile} (enforce)\n"
    assert "/forbidden: Permission denied" in result.err


def test_one_that_is_not_loaded(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["apparmorProfile"] = "orlop-nowhere"
    container = runtime.new_id(bundle.args("true", ""))
    bundle.write()
    result = runtime("create", "--bundle", bundle.path, container)
    assert result.status == 1
    assert "apparmor" in result.message.lower() or "attr/exec" in result.message
    assert runtime("state", container).status == 1
    if runtime.is_ours:
        said = 'process.apparmorProfile: unable to apply "orlop-nowhere": no such profile is loaded'
        assert said in result.message
    free = runtime.start(runtime.bundle().args("sleep", "1000"))
    result = runtime("exec", "--apparmor", "orlop-nowhere", free, "true")
    assert result.status != 0
    assert "apparmor" in result.message.lower() or "attr/exec" in result.message


_ATTEMPTS = """
for try in \\
    'mount -t tmpfs x /tmp' 'echo 1 > /proc/sys/kernel/msgmax' 'echo 1 > /proc/sys/net/ipv4/ip_forward' \\
    'echo 0 > /proc/self/oom_score_adj' 'echo 9999 > /proc/sys/kernel/shmmax' 'echo x > /tmp/x' 'kill -0 1'
do
    (eval "$try") 2>/dev/null && echo "$try"
done
true
"""


@pytest.mark.parametrize("include", [True, False])
def test_what_docker_default_holds_back(ours: Runtime, bundle: Bundle, include: bool) -> None:
    """Of a container whose capabilities and mounts would let it."""
    bundle.linux["readonlyPaths"] = []
    every = ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_RESOURCE", "CAP_KILL", "CAP_DAC_OVERRIDE"]
    bundle.process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), every)
    free = ours.run(bundle.args(_ATTEMPTS)).ok().splitlines()
    assert len(free) == 7, free
    name = f"orlop-default-{os.getpid()}"
    with _loaded(profile_text(name, include=include)):
        bundle.process["apparmorProfile"] = name
        confined = ours.run(bundle).ok().splitlines()
    assert confined == free[3:]
