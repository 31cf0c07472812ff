# SPDX-License-Identifier: Apache-2.0
"""Containers of an ordinary user: user namespaces, newuidmap, and control groups that may not be made."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest
from support.bundles import COMMANDS, Bundle, eventually
from support.users import FIRST, UID, UserRuntime, map_subordinate

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/usr/bin/newuidmap"), reason="newuidmap is not installed"),
]


@pytest.fixture(
    params=[
        "orlop-runc",
        pytest.param("runc", marks=pytest.mark.original),
        pytest.param("crun", marks=pytest.mark.original),
    ]
)
def user(request: pytest.FixtureRequest) -> Iterator[UserRuntime]:
    """Each runtime, run by an ordinary user."""
    if not os.path.exists(COMMANDS[request.param]):
        pytest.skip(f"{request.param} is not installed")
    made = UserRuntime(request.param)
    yield made
    made.close()


@pytest.fixture
def ours() -> Iterator[UserRuntime]:
    """Ours alone."""
    made = UserRuntime("orlop-runc")
    yield made
    made.close()


def test_run(user: UserRuntime) -> None:
    bundle = user.bundle().args("id -u; id -g; echo $$; cat /proc/self/uid_map; echo mine > /made")
    uid, gid, pid, mapping = user.run(bundle).ok().splitlines()
    assert (uid, gid, pid) == ("0", "0", "1")
    assert mapping.split() == ["0", str(UID), "1"]
    assert os.stat(f"{bundle.rootfs}/made").st_uid == UID


def test_life(user: UserRuntime) -> None:
    bundle = user.bundle().args("sleep", "100")
    container = user.create(bundle)
    assert user.state(container)["status"] == "created"
    user("start", container).ok()
    state = user.state(container)
    assert state["status"] == "running"
    assert os.stat(f"/proc/{state['pid']}").st_uid == UID
    assert user("exec", container, "sh", "-c", "id -u; ls /proc | grep -c '^1$'; hostname").ok().split() == [
        "0", "1", "runc",
    ]  # fmt: skip
    assert user("exec", container, "false").status == 1
    assert container in user("list", "-q").ok()
    user("kill", container, "KILL").ok()
    user.await_status(container, "stopped")
    user("delete", container).ok()


def test_devices_are_the_hosts(user: UserRuntime) -> None:
    script = "echo x > /dev/null; head -c 4 /dev/zero | od -c | head -1; stat -c '%t:%T %F' /dev/null /dev/urandom"
    bundle = user.bundle().args(script.replace("| od -c | head -1", "> /zeros"))
    out = user.run(bundle).ok().splitlines()
    assert out == ["1:3 character special file", "1:9 character special file"]
    assert os.path.getsize(f"{bundle.rootfs}/zeros") == 4


def test_no_group_can_be_given_up(user: UserRuntime) -> None:
    bundle = user.bundle().args("cat /proc/self/setgroups")
    assert user.run(bundle).ok() == "deny\n"


def test_subordinate_ids(user: UserRuntime) -> None:
    bundle = user.bundle().args("id -u; id -g; id -G; touch /tmp/made")
    map_subordinate(bundle.spec)
    bundle.process["user"] = {"uid": 1000, "gid": 1001}
    assert user.run(bundle).ok().splitlines() == ["1000", "1001", "1001"]
    assert os.stat(f"{bundle.rootfs}/tmp/made").st_uid == FIRST + 999


def test_exec_as_a_subordinate_user(user: UserRuntime) -> None:
    bundle = user.bundle().args("sleep", "100")
    map_subordinate(bundle.spec)
    bundle.process["user"] = {"uid": 1000, "gid": 1001}
    container = user.start(bundle)
    assert user("exec", "--user", "7:8", container, "sh", "-c", "id -u; id -g").ok().split() == ["7", "8"]
    user("kill", container, "KILL").ok()
    user.await_status(container, "stopped")


def test_additional_groups_of_subordinate_ids(ours: UserRuntime) -> None:
    bundle = ours.bundle().args("id -G")
    map_subordinate(bundle.spec)
    bundle.process["user"]["additionalGids"] = [50]
    assert ours.run(bundle).ok().split() == ["0", "50"]


def test_ids_that_are_not_the_users_are_refused(user: UserRuntime) -> None:
    bundle = user.bundle().args("true", "")
    bundle.linux["uidMappings"].append({"containerID": 1, "hostID": 1, "size": 10})
    result = user.run(bundle)
    assert result.status != 0
    if user.is_ours:
        assert "linux.uidMappings: newuidmap: uid range [1-11) -> [1-11) not allowed" in result.message


def test_a_terminal(ours: UserRuntime) -> None:
    bundle = ours.bundle().args("tty; stat -c %t /dev/console")
    bundle.process["terminal"] = True
    out = ours.run(bundle).ok().split()
    assert out == ["/dev/pts/0", "88"]


def test_without_control_groups_limits_are_an_error(user: UserRuntime) -> None:
    bundle = user.bundle().args("true", "")
    bundle.linux["resources"] = {"memory": {"limit": 64 << 20}}
    result = user.run(bundle)
    if user.name == "crun":
        return  # leaves limits out in silence on version 1
    assert result.status != 0
    if user.is_ours:
        assert "linux.resources: limits need a control group" in result.message
        assert ours_left_nothing(user)


def ours_left_nothing(user: UserRuntime) -> bool:
    """Whether no container is left."""
    return user("list", "-q").ok() == ""


def test_device_rules_do_not_need_control_groups(user: UserRuntime) -> None:
    bundle = user.bundle().args("true", "")
    bundle.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    user.run(bundle).ok()


def test_a_group_that_is_named_must_be_had(ours: UserRuntime) -> None:
    bundle = ours.bundle().args("true", "")
    container = ours.new_id(bundle)
    bundle.linux["cgroupsPath"] = f"/orlop-oci/{container}"
    bundle.write()
    result = ours("run", "--bundle", bundle.path, container)
    assert result.status == 1
    assert "permission denied" in result.message.lower()


@pytest.mark.parametrize("tolerant", ["true", "false", "auto"])
def test_whether_control_groups_that_may_not_be_made_are_tolerated(user: UserRuntime, tolerant: str) -> None:
    """`--rootless`, which says so in the place of a guess. crun goes without in any case."""
    bundle = user.bundle().args("echo ran")
    container = user.new_id(bundle)
    bundle.write()
    result = user("--rootless", tolerant, "run", "--bundle", bundle.path, container)
    if tolerant == "false" and user.name != "crun":
        assert (result.status, result.out) == (1, "")
        assert "permission denied" in result.message.lower()
        assert ours_left_nothing(user)
    else:
        assert result.ok() == "ran\n"


def test_delegated_control_groups_limit(ours: UserRuntime) -> None:
    ours.delegate(("pids", "memory"))
    bundle = ours.bundle().args("sleep", "100")
    bundle.linux["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 20}}
    container = ours.start(bundle)
    group = f"{ours.cgroup}/{container}"
    with open(f"/sys/fs/cgroup/memory/{group}/memory.limit_in_bytes", encoding="utf-8") as file:
        assert int(file.read()) == 64 << 20
    with open(f"/sys/fs/cgroup/pids/{group}/cgroup.procs", encoding="utf-8") as file:
        assert file.read().split() == [str(ours.state(container)["pid"])]
    ours("exec", container, "true").ok()
    ours("update", "--pids-limit", "30", container).ok()
    stats = json.loads(ours("events", "--stats", container).ok())
    assert stats["data"]["pids"]["limit"] == 30
    result = ours("pause", container)
    assert result.status == 1
    assert "freezer" in result.message
    ours("delete", "--force", container).ok()
    assert not os.path.exists(f"/sys/fs/cgroup/memory/{group}")


def test_a_delegated_freezer_pauses(ours: UserRuntime) -> None:
    ours.delegate(("freezer",))
    container = ours.start(ours.bundle().args("sleep", "100"))
    ours("pause", container).ok()
    assert ours.state(container)["status"] == "paused"
    ours("resume", container).ok()
    ours("delete", "--force", container).ok()


def test_a_private_network_and_sysfs(user: UserRuntime) -> None:
    bundle = user.bundle().args("ip -o link; ls /sys/class/net")
    bundle.linux["namespaces"].append({"type": "network"})
    for mount in bundle.spec["mounts"]:
        if mount["destination"] == "/sys":
            mount.update(type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev", "ro"])
    out = user.run(bundle).ok()
    assert out.splitlines()[-1] == "lo"
    assert "LOOPBACK,UP" in out


def test_the_sysfs_of_the_host_is_shown_where_a_new_one_is_refused(ours: UserRuntime) -> None:
    bundle = ours.bundle().args("ls -d /sys/class/net/lo; touch /sys/x || echo read-only")
    for mount in bundle.spec["mounts"]:
        if mount["destination"] == "/sys":
            mount.update(type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev", "ro"])
    out = ours.run(bundle).ok()
    assert out == "/sys/class/net/lo\nread-only\n"


def _without_user_namespace(bundle: Bundle) -> None:
    bundle.without_namespace("user")
    del bundle.linux["uidMappings"], bundle.linux["gidMappings"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_user_namespace, "rootless container requires user namespaces"),
        (
            lambda b: b.mount("/x", "tmpfs", "x", "gid=5"),
            "cannot specify gid=5 mount option for rootless container",
        ),
        (lambda b: b.process["user"].update(additionalGids=[5]), "cannot set any additional groups"),
        (lambda b: b.mount("/x", "bind", "/", "bind", "idmap"), "id-mapped mounts are not supported"),
    ],
)
def test_what_a_user_cannot_have_is_refused_by_name(ours: UserRuntime, change, words: str) -> None:
    bundle = ours.bundle().args("true", "")
    change(bundle)
    result = ours.run(bundle)
    assert result.status == 1
    assert words in result.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"oomScoreAdj": -500}, "process.oomScoreAdj -500 is below what the runtime may set"),
        (
            {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1 << 29, "hard": 1 << 29}]},
            "RLIMIT_NOFILE 536870912:536870912 is above what the runtime may set",
        ),
    ],
    ids=["oom-score", "rlimit"],
)
def test_a_limit_that_the_user_may_not_set_is_a_warning(
    user: UserRuntime, change: dict[str, object], words: str
) -> None:
    """The originals give up, runc with a riddle: "can't get final child's PID from pipe: EOF"."""
    bundle = user.bundle().args("echo ran")
    bundle.process.update(change)
    result = user.run(bundle)
    if user.is_ours:
        assert result.ok() == "ran\n"
        assert result.err.count("level=warning") == 1 and words in result.err
    else:
        assert result.status == 1 and result.out == ""


def test_state_is_in_the_users_runtime_directory(ours: UserRuntime) -> None:
    bundle = ours.bundle().args("sleep", "100")
    container = ours.new_id(bundle)
    bundle.write()
    command = ours.as_user(COMMANDS["orlop-runc"])
    null = subprocess.DEVNULL
    subprocess.run(
        [*command, "run", "-d", "--bundle", bundle.path, container],
        check=True,
        timeout=30,
        stdout=null,
        stderr=null,
    )
    state = f"{ours.runtime_directory}/orlop/runc"
    assert os.listdir(state) == [container]
    assert os.stat(f"{ours.runtime_directory}/orlop").st_mode & 0o7777 == 0o1700
    subprocess.run([*command, "delete", "--force", container], check=True, timeout=30)
    eventually(lambda: os.listdir(state) == [], "state is left")


def test_spec_rootless(user: UserRuntime) -> None:
    directory = f"{user.runtime_directory}"
    user("spec", "--rootless", "--bundle", directory) if user.name != "crun" else user(
        "spec", "--rootless", cwd=directory
    )
    with open(f"{directory}/config.json", encoding="utf-8") as file:
        spec = json.load(file)
    if user.name != "crun":  # which writes no mappings down and takes the caller's
        assert [m["hostID"] for m in spec["linux"]["uidMappings"]] == [UID]
    kinds = {namespace["type"] for namespace in spec["linux"]["namespaces"]}
    assert "user" in kinds
    assert "network" not in kinds or user.name == "crun"
    assert not any(option.startswith(("gid=", "uid=")) for m in spec["mounts"] for option in m.get("options", []))


def test_the_root_of_a_user_namespace(ours: UserRuntime) -> None:
    """As rootless engines call their runtime: root already, in a user and mount namespace of their own."""
    bundle = ours.bundle().args("id -u; test -c /dev/null && echo device")
    bundle.without_namespace("user")
    del bundle.linux["uidMappings"], bundle.linux["gidMappings"]
    container = ours.new_id(bundle)
    bundle.write()
    runtime = [COMMANDS["orlop-runc"], "--root", ours.root, "run", "--bundle", bundle.path, container]
    command = ours.as_user("unshare", "--user", "--map-root-user", "--mount", *runtime)
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.returncode) == ("0\ndevice\n", 0), done.stderr


needs_unified = pytest.mark.skipif(
    not os.path.exists("/sys/fs/cgroup/unified/cgroup.procs"), reason="no unified hierarchy beside version 1"
)


@needs_unified
def test_a_delegated_group_of_version_2(ours: UserRuntime) -> None:
    ours.delegate_unified()
    container = ours.start(ours.bundle().args("cat /proc/self/cgroup > /own; sleep 100"))
    pid = ours.state(container)["pid"]
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        assert f"0::/{ours.cgroup}/{container}\n" in file.read()
    ours("pause", container).ok()
    assert ours.state(container)["status"] == "paused"
    ours("resume", container).ok()
    ours("exec", container, "true").ok()
    assert str(pid) in ours("ps", "--format", "json", container).ok()
    ours("delete", "--force", container).ok()
    assert not os.path.exists(f"/sys/fs/cgroup/unified/{ours.cgroup}/{container}")


@needs_unified
def test_no_group_of_version_2(ours: UserRuntime) -> None:
    ours.unified = True
    bundle = ours.bundle().args("grep ' /sys/fs/cgroup ' /proc/self/mountinfo")
    assert " - cgroup2 " in ours.run(bundle).ok()
    bundle.linux["resources"] = {"pids": {"limit": 20}}
    assert "limits need a control group" in ours.run(bundle).message
