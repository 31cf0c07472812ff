# SPDX-License-Identifier: Apache-2.0
"""What a container sees as its root: mounts, devices, protected paths; and its namespaces."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess

import pytest
from support.bundles import Bundle, Runtime, eventually

pytestmark = pytest.mark.root


def _mount_table(text: str) -> dict[str, tuple[str, set[str]]]:
    """Mount point -> (type, options) of /proc/mounts; of two on one point the upper one."""
    table = {}
    for line in text.splitlines():
        _, point, kind, options, *_ = line.split(" ")
        table[point] = (kind, set(options.split(",")))
    return table


def test_default_mounts(runtime: Runtime, bundle: Bundle) -> None:
    table = _mount_table(runtime.run(bundle.args("cat", "/proc/mounts")).ok())
    kinds = {point: kind for point, (kind, _) in table.items()}
    for point, kind in (
        ("/proc", "proc"), ("/dev", "tmpfs"), ("/dev/pts", "devpts"), ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"), ("/sys", "sysfs"),
    ):  # fmt: skip
        assert kinds[point] == kind, point
    assert {"ro", "nosuid", "nodev", "noexec"} <= table["/sys"][1]
    assert "ro" in table["/sys/fs/cgroup"][1] or not runtime.is_ours  # runc forgets it in a cgroup namespace
    assert "ptmxmode=666" in table["/dev/pts"][1]
    assert {"nosuid", "size=65536k"} <= table["/dev"][1]


def test_devices(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["devices"] = [
        {"path": "/dev/orlop", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 7, "gid": 8},
        {"path": "/dev/sub/pipe", "type": "p", "fileMode": 0o600},
    ]
    script = "stat -c '%n %a %u %g %t:%T %F' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty"
    script += " /dev/orlop /dev/sub/pipe; for n in fd stdin stdout stderr ptmx; do readlink /dev/$n; done"
    lines = runtime.run(bundle.args(script)).ok().splitlines()
    assert lines[:6] == [
        f"/dev/{name} 666 0 0 {number} character special file"
        for name, number in (
            ("null", "1:3"), ("zero", "1:5"), ("full", "1:7"),
            ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0"),
        )
    ]  # fmt: skip
    assert lines[6] == "/dev/orlop 640 7 8 1:5 character special file"
    assert lines[7] == "/dev/sub/pipe 600 0 0 0:0 fifo"
    assert lines[8:12] == ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"]
    assert lines[12].endswith("pts/ptmx")


def test_masked_and_read_only_paths(runtime: Runtime, bundle: Bundle) -> None:
    os.mkdir(f"{bundle.rootfs}/secret")
    for name in ("secret/file", "note"):
        with open(f"{bundle.rootfs}/{name}", "w", encoding="utf-8") as file:
            file.write("content")
    bundle.linux["maskedPaths"] = ["/secret", "/note", "/nonexistent", "/proc/kcore"]
    bundle.linux["readonlyPaths"] = ["/proc/sys", "/home", "/nonexistent"]
    script = """
    ls -A /secret; cat /note; head -c 1 /proc/kcore
    touch /secret/x 2>&1 | grep -o 'Read-only'
    touch /home/x 2>&1 | grep -o 'Read-only'
    { echo 1 > /proc/sys/vm/drop_caches; } 2>&1 | grep -o 'Read-only'
    touch /fine && echo fine
    """
    assert runtime.run(bundle.args(script)).ok().split() == ["Read-only"] * 3 + ["fine"]
    with open(f"{bundle.rootfs}/note", encoding="utf-8") as file:
        assert file.read() == "content"


def test_a_read_only_root(runtime: Runtime, bundle: Bundle) -> None:
    bundle.spec["root"]["readonly"] = True
    bundle.mount("/made/for/it", "tmpfs", "tmpfs")
    script = "touch /x 2>&1 | grep -o Read-only; touch /made/for/it/y && echo writable"
    assert runtime.run(bundle.args(script)).ok().split() == ["Read-only", "writable"]


def test_bind_mounts(runtime: Runtime, bundle: Bundle, tmp_path) -> None:
    (tmp_path / "file").write_text("from outside")
    (tmp_path / "dir").mkdir()
    bundle.mount("/etc/new/file", "bind", str(tmp_path / "file"), "bind", "ro")
    bundle.mount("/data", "none", str(tmp_path / "dir"), "rbind", "rw", "nosuid")
    script = "cat /etc/new/file; echo; touch /data/made; { echo > /etc/new/file; } 2>&1 | grep -o Read-only"
    result = runtime.run(bundle.args(script + "; cat /proc/mounts"))
    lines = result.out.splitlines()
    assert lines[:2] == ["from outside", "Read-only"]
    assert (tmp_path / "dir" / "made").exists()
    assert "nosuid" in _mount_table("\n".join(lines[2:]))["/data"][1]


def test_recursive_read_only(runtime: Runtime, bundle: Bundle, tmp_path) -> None:
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True)
    script = f"""mount -t tmpfs tmpfs {outer}/inner
    exec {shlex.join(runtime.command)} --root {runtime.root} run -b {bundle.path} "$1" """
    bundle.mount("/plain", "bind", str(outer), "rbind", "ro")
    bundle.mount("/deep", "bind", str(outer), "rbind", "rro")
    bundle.args("touch /plain/inner/x && echo plain; touch /deep/inner/x 2>&1 | grep -o Read-only")
    container = runtime.new_id(bundle)
    bundle.write()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", script, "sh", container], capture_output=True, text=True, check=False
    )
    if runtime.name == "runc" and "rro" in done.stderr:
        pytest.skip("this runc does not know rro")
    assert done.stdout.split() == ["plain", "Read-only"], done.stderr


def test_mount_points_are_made_inside_the_root(runtime: Runtime, bundle: Bundle, tmp_path) -> None:
    """A link in the image that leads out ends inside the root."""
    if runtime.name == "crun":
        os.makedirs(f"{bundle.rootfs}{tmp_path}/escape")  # it makes nothing behind a link that leads nowhere
    os.symlink(str(tmp_path / "escape"), f"{bundle.rootfs}/absolute")
    os.symlink("../../../../../../" + str(tmp_path / "escape"), f"{bundle.rootfs}/etc/relative")
    bundle.mount("/absolute/a", "tmpfs", "tmpfs").mount("/etc/relative/b", "tmpfs", "tmpfs")
    text = runtime.run(bundle.args("cat", "/proc/mounts")).ok()
    assert {f"{tmp_path}/escape/a", f"{tmp_path}/escape/b"} <= set(_mount_table(text))
    assert not (tmp_path / "escape").exists()


def test_tmpcopyup(runtime: Runtime, bundle: Bundle) -> None:
    os.makedirs(f"{bundle.rootfs}/tree/sub")
    with open(f"{bundle.rootfs}/tree/sub/file", "w", encoding="utf-8") as file:
        file.write("kept")
    os.chmod(f"{bundle.rootfs}/tree/sub/file", 0o4755)
    os.symlink("sub/file", f"{bundle.rootfs}/tree/link")
    os.chown(f"{bundle.rootfs}/tree/sub", 5, 6)
    bundle.mount("/tree", "tmpfs", "tmpfs", "tmpcopyup")
    script = "cat /tree/link; echo; stat -c '%a %u %g' /tree/sub/file /tree/sub; echo changed > /tree/link"
    assert runtime.run(bundle.args(script)).ok().splitlines() == ["kept", "4755 0 0", "755 5 6"]
    with open(f"{bundle.rootfs}/tree/sub/file", encoding="utf-8") as file:
        assert file.read() == "kept"


def test_a_tmpfs_takes_the_mode_of_what_it_covers(ours: Runtime, bundle: Bundle) -> None:
    os.mkdir(f"{bundle.rootfs}/covered")
    os.chmod(f"{bundle.rootfs}/covered", 0o1731)
    bundle.mount("/covered", "tmpfs", "tmpfs").mount("/new", "tmpfs", "tmpfs", "mode=700", "ro").mount(
        "/sealed", "tmpfs", "tmpfs", "rro"
    )
    script = "stat -c %a /covered /new; touch /new/x /sealed/x 2>&1 | grep -o Read-only"
    assert ours.run(bundle.args(script)).ok().split() == ["1731", "700", "Read-only", "Read-only"]


def test_mounts_do_not_spread_to_the_host(runtime: Runtime, bundle: Bundle) -> None:
    bundle.mount("/mnt/inside", "tmpfs", "tmpfs")
    container = runtime.start(bundle.args("sleep", "100"))
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        assert runtime.base not in file.read()
    del container


def test_shared_propagation(ours: Runtime, bundle: Bundle) -> None:
    bundle.linux["rootfsPropagation"] = "shared"
    bundle.mount("/vol", "tmpfs", "tmpfs", "rshared").mount("/own", "tmpfs", "tmpfs", "rprivate")
    text = ours.run(bundle.args("cat", "/proc/self/mountinfo")).ok()
    optional = {line.split(" ")[4]: line.partition(" - ")[0].split(" ")[6:] for line in text.splitlines()}
    assert any(field.startswith("shared:") for field in optional["/"])
    assert any(field.startswith("shared:") for field in optional["/vol"])
    assert optional["/own"] == []


def test_nothing_of_the_host_is_mounted(runtime: Runtime, bundle: Bundle) -> None:
    text = runtime.run(bundle.args("cat", "/proc/self/mountinfo")).ok()
    points = [line.split(" ")[4] for line in text.splitlines()]
    assert points[0] == "/"
    allowed = re.compile(r"/(proc|sys|dev)(/.*)?|/")
    assert [point for point in points if not allowed.fullmatch(point)] == []


def test_an_overlay(runtime: Runtime, bundle: Bundle, tmp_path) -> None:
    for name in ("lower1", "lower2", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower1" / "one").write_text("1\n")
    (tmp_path / "lower2" / "two").write_text("2\n")
    options = [
        f"lowerdir={tmp_path}/lower1:{tmp_path}/lower2",
        f"upperdir={tmp_path}/upper",
        f"workdir={tmp_path}/work",
    ]
    bundle.mount("/o", "overlay", "overlay", *options)
    assert runtime.run(bundle.args("cat /o/one /o/two; touch /o/new")).ok() == "1\n2\n"
    assert (tmp_path / "upper" / "new").exists()


def test_no_pivot(runtime: Runtime, bundle: Bundle) -> None:
    names = runtime.run(bundle.args("ls", "/"), "--no-pivot").ok().split()
    assert sorted(names) == sorted(os.listdir(bundle.rootfs))
    bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if m["destination"] in ("/proc", "/dev")]
    text = runtime.run(bundle.args("cat", "/proc/self/mountinfo"), "--no-pivot").ok()
    assert [line for line in text.splitlines() if " - sysfs " in line] == []


# -- namespaces -----------------------------------------------------------------------------------


def test_namespaces_are_new(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    pid = runtime.state(container)["pid"]
    for kind in ("mnt", "pid", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind


def test_namespaces_are_joined_by_path(runtime: Runtime, bundle: Bundle) -> None:
    holder = subprocess.Popen(
        ["unshare", "--net", "--ipc", "--uts", "sh", "-c", "echo; exec sleep 100"], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        for namespace in bundle.linux["namespaces"]:
            kind = {"network": "net", "ipc": "ipc", "uts": "uts"}.get(namespace["type"])
            if kind:
                namespace["path"] = f"/proc/{holder.pid}/ns/{kind}"
        container = runtime.start(bundle.args("sleep", "100"))
        pid = runtime.state(container)["pid"]
        for kind in ("net", "ipc", "uts"):
            assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{holder.pid}/ns/{kind}")
            inside = runtime("exec", container, "readlink", f"/proc/self/ns/{kind}").ok().strip()
            assert inside == os.readlink(f"/proc/{pid}/ns/{kind}")
    finally:
        holder.kill()
        holder.communicate()


def test_a_pid_namespace_is_joined_by_path(runtime: Runtime, bundle: Bundle) -> None:
    first = runtime.start(bundle.args("sleep", "100"))
    pid = runtime.state(first)["pid"]
    second = runtime.bundle().args("sleep", "200")
    for namespace in second.linux["namespaces"]:
        if namespace["type"] == "pid":
            namespace["path"] = f"/proc/{pid}/ns/pid"
    container = runtime.start(second)
    assert os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{runtime.state(container)['pid']}/ns/pid")
    assert "sleep 200" in runtime("exec", first, "ps").ok()


def test_a_bad_namespace_path(ours: Runtime, bundle: Bundle) -> None:
    for namespace in bundle.linux["namespaces"]:
        if namespace["type"] == "network":
            namespace["path"] = "/run/nonexistent-netns"
    result = ours.run(bundle.args("true", ""))
    assert result.status == 1
    assert "/run/nonexistent-netns: no such file or directory" in result.err


def test_host_and_domain_name_and_sysctl(runtime: Runtime, bundle: Bundle) -> None:
    bundle.spec["hostname"] = "ship"
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.shmmax": "65536"}
    script = "hostname; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax"
    assert runtime.run(bundle.args(script)).ok().split() == ["ship", "1", "65536"]


def test_domainname(ours: Runtime, bundle: Bundle) -> None:
    bundle.spec["domainname"] = "sea.example"
    assert ours.run(bundle.args("cat", "/proc/sys/kernel/domainname")).ok() == "sea.example\n"


def test_loopback_is_up(runtime: Runtime, bundle: Bundle) -> None:
    assert re.search(r"lo: <LOOPBACK,UP,LOWER_UP>", runtime.run(bundle.args("ip", "link")).ok())


def _use_user_namespace(bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        bundle.linux[kind] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    for directory, _, files in os.walk(bundle.rootfs):
        os.lchown(directory, 100000, 100000)
        for name in files:
            os.lchown(f"{directory}/{name}", 100000, 100000)
    base = os.path.dirname(bundle.path)
    for path in (base, bundle.path):
        os.chmod(path, 0o755)


def test_user_namespace(runtime: Runtime, bundle: Bundle, tmp_path) -> None:
    _use_user_namespace(bundle)
    (tmp_path / "hidden").mkdir(mode=0o700)
    (tmp_path / "hidden" / "file").write_text("reached\n")
    bundle.mount("/reached", "bind", str(tmp_path / "hidden" / "file"), "bind", "ro")
    script = "id -u; cat /proc/self/uid_map /reached; touch /made; echo x > /dev/null && stat -c %t:%T /dev/null"
    container = runtime.start(bundle.args("sleep", "100"))
    pid = runtime.state(container)["pid"]
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        assert re.search(r"^Uid:\s100000\s", file.read(), re.M)
    lines = runtime("exec", container, "sh", "-c", script).ok().splitlines()
    assert lines[0] == "0"
    assert lines[1].split() == ["0", "100000", "65536"]
    assert lines[2:] == ["reached", "1:3"]
    assert os.stat(f"{bundle.rootfs}/made").st_uid == 100000


def test_a_user_namespace_is_joined_by_path(ours: Runtime, bundle: Bundle) -> None:
    _use_user_namespace(bundle)
    first = ours.start(bundle.args("sleep", "100"))
    pid = ours.state(first)["pid"]
    second = ours.bundle().args("id -u; cat /proc/self/uid_map")
    _use_user_namespace(second)
    second.linux["namespaces"][-1]["path"] = f"/proc/{pid}/ns/user"
    del second.linux["uidMappings"], second.linux["gidMappings"]
    lines = ours.run(second).ok().splitlines()
    assert (lines[0], lines[1].split()) == ("0", ["0", "100000", "65536"])


def test_a_new_user_namespace_with_namespaces_of_the_host_to_join(runtime: Runtime, bundle: Bundle) -> None:
    _use_user_namespace(bundle)
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 100"], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        for namespace in bundle.linux["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = f"/proc/{holder.pid}/ns/net"
        # sysfs belongs to the network namespace, which is not the user namespace's.
        bundle.spec["mounts"] = [m for m in bundle.spec["mounts"] if not m["destination"].startswith("/sys")]
        inside = runtime.run(bundle.args("readlink", "/proc/self/ns/net")).ok().strip()
        assert inside == os.readlink(f"/proc/{holder.pid}/ns/net")
    finally:
        holder.kill()
        holder.communicate()


def test_time_namespace(ours: Runtime, bundle: Bundle) -> None:
    bundle.linux["namespaces"].append({"type": "time"})
    bundle.linux["timeOffsets"] = {"boottime": {"secs": 5_000_000}}
    uptime = float(ours.run(bundle.args("cat", "/proc/uptime")).ok().split()[0])
    assert uptime > 5_000_000


def test_keyring(ours: Runtime, bundle: Bundle) -> None:
    bundle.linux["maskedPaths"].remove("/proc/keys")
    text = ours.run(bundle.args("cat", "/proc/keys")).ok()
    assert f"_ses.{ours.ids[-1]}" in text


# -- seccomp, hooks -------------------------------------------------------------------------------


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_seccomp(runtime: Runtime, bundle: Bundle, no_new_privileges: bool) -> None:
    bundle.process["noNewPrivileges"] = no_new_privileges
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    script = "mkdir /x 2>&1; grep ^Seccomp: /proc/self/status"
    lines = runtime.run(bundle.args(script)).ok().splitlines()
    assert "not supported" in lines[0]
    assert lines[1].split() == ["Seccomp:", "2"]
    container = runtime.start(bundle.args("sleep", "100"))
    assert "not supported" in runtime("exec", container, "mkdir", "/y").err


def _hook(bundle: Bundle, name: str, script: str, **more: object) -> dict[str, object]:
    path = f"{bundle.path}/hook-{name}"
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\n{script}\n")
    os.chmod(path, 0o755)
    return {"path": path, "args": [path, name], **more}


def test_hooks_run_in_order_with_the_state(runtime: Runtime, bundle: Bundle) -> None:
    log = f"{bundle.path}/log"
    script = f"(printf '%s ' $1; cat; echo) >> {log}"
    kinds = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    bundle.spec["hooks"] = {kind: [_hook(bundle, kind, script)] for kind in kinds}
    bundle.spec["annotations"] = {"a": "b"}
    container = runtime.create(bundle.args("sleep", "100"))

    def ran() -> dict[str, dict[str, object]]:
        with open(log, encoding="utf-8") as file:
            return {line.split(" ", 1)[0]: json.loads(line.split(" ", 1)[1]) for line in file}

    if runtime.is_ours:  # runc runs poststart hooks too early
        assert list(ran()) == ["prestart", "createRuntime", "createContainer"]
    runtime("start", container).ok()
    assert list(ran())[3:] == ["poststart"]
    runtime("delete", "--force", container).ok()
    states = ran()
    assert list(states)[4:] == ["poststop"]
    assert {state["id"] for state in states.values()} == {container}
    assert {state["bundle"] for state in states.values()} == {bundle.path}
    if runtime.is_ours:
        assert states["prestart"]["status"] == "created"
        assert states["createRuntime"]["status"] == "creating"
    assert states["poststart"]["status"] == "running" or not runtime.is_ours
    assert states["poststop"]["status"] == "stopped"
    assert states["poststart"]["annotations"] == {"a": "b"}


def test_the_start_hook_runs_in_the_container(runtime: Runtime, bundle: Bundle) -> None:
    with open(f"{bundle.rootfs}/bin/hook", "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\ncat > /state\necho $GREETING > /greeting\n")
    os.chmod(f"{bundle.rootfs}/bin/hook", 0o755)
    bundle.spec["hooks"] = {"startContainer": [{"path": "/bin/hook", "env": ["GREETING=hi", "PATH=/bin"]}]}
    container = runtime.create(bundle.args("sleep", "100"))
    assert not os.path.exists(f"{bundle.rootfs}/state")
    runtime("start", container).ok()
    runtime("exec", container, "sh", "-c", "while ! test -s /greeting; do sleep 0.05; done").ok()
    with open(f"{bundle.rootfs}/state", encoding="utf-8") as file:
        assert json.load(file)["id"] == container


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_failing_hook_stops_the_creation(runtime: Runtime, bundle: Bundle, kind: str) -> None:
    bundle.spec["hooks"] = {kind: [_hook(bundle, "bad", "echo because >&2; exit 3")]}
    result = runtime.run(bundle.args("touch", "/ran"))
    assert result.status == (255 if runtime.name == "crun" and kind != "createContainer" else 1)
    assert runtime("state", runtime.ids[-1]).status != 0
    assert not os.path.exists(f"{bundle.rootfs}/ran")
    if runtime.is_ours:
        assert f"error running {kind} hook #0: exit status 3, output: because" in result.err


def test_a_hook_has_its_time(runtime: Runtime, bundle: Bundle) -> None:
    bundle.spec["hooks"] = {"createRuntime": [_hook(bundle, "slow", "exec sleep 20", timeout=1)]}
    result = runtime.run(bundle.args("true", ""))
    assert result.status == 1
    assert "timeout" in result.err or not runtime.is_ours


def test_a_failing_poststop_hook_is_a_warning(ours: Runtime, bundle: Bundle) -> None:
    bundle.spec["hooks"] = {
        "poststop": [_hook(bundle, "bad", "exit 3"), _hook(bundle, "good", f"touch {bundle.path}/ran")]
    }
    result = ours.run(bundle.args("true", ""))
    assert result.status == 0
    assert "level=warning" in result.err
    assert os.path.exists(f"{bundle.path}/ran")


@pytest.mark.parametrize("version", ["1.2.1", "1.3.0"])
def test_a_failing_poststart_hook_ends_the_container_since_version_1_3(
    ours: Runtime, bundle: Bundle, version: str
) -> None:
    bundle.spec["ociVersion"] = version
    bundle.spec["hooks"] = {
        "poststart": [_hook(bundle, "bad", "exit 3"), _hook(bundle, "good", f"touch {bundle.path}/ran")]
    }
    container = ours.create(bundle.args("sleep", "100"))
    result = ours("start", container)
    assert "error running poststart hook #0: exit status 3" in result.err
    if version == "1.3.0":
        assert result.status == 1
        ours.await_status(container, "stopped")
    else:
        assert (result.status, ours.state(container)["status"]) == (0, "running")
    assert os.path.exists(f"{bundle.path}/ran") == (version != "1.3.0")


@pytest.mark.parametrize("how", ["unbindable", "runbindable", "slave", "private"])
def test_propagation_of_the_root(ours: Runtime, bundle: Bundle, how: str) -> None:
    bundle.linux["rootfsPropagation"] = how
    shown = ours.run(bundle.args("awk '$5 == \"/\"' /proc/self/mountinfo")).ok()
    assert ("unbindable" in shown) == ("unbindable" in how)
    assert "shared:" not in shown


def test_modes_of_what_is_made(ours: Runtime, bundle: Bundle) -> None:
    bundle.mount("/a/b", "tmpfs", "tmpfs")
    ours.run(bundle.args("true", ""), umask=0o77).ok()
    assert stat.S_IMODE(os.stat(f"{bundle.rootfs}/a").st_mode) == 0o755


def _mounts_below(path: str) -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return [line.split(" ")[4] for line in file if line.split(" ")[4].startswith(path)]


def test_without_a_mount_namespace_the_mounts_go_with_the_container(ours: Runtime, bundle: Bundle) -> None:
    bundle.without_namespace("mount")
    bundle.linux["maskedPaths"] = bundle.linux["readonlyPaths"] = []
    container = ours.start(bundle.args("touch /up; sleep 100"))
    eventually(lambda: os.path.exists(f"{bundle.rootfs}/up"), "it does not run")
    assert f"{bundle.rootfs}/proc" in _mounts_below(bundle.rootfs)
    assert ours("exec", container, "sh", "-c", "ls -d /up /usr /proc/1; pwd").out == "/proc/1\n/up\n/\n"
    ours("delete", "--force", container).ok()
    assert _mounts_below(bundle.rootfs) == []
    assert ours.run(bundle.args("no-such-program", "")).status == 1
    assert _mounts_below(bundle.rootfs) == []
    assert ours.run(bundle.args("echo $$")).ok() == "1\n"
    assert _mounts_below(bundle.rootfs) == []
