# SPDX-License-Identifier: Apache-2.0
"""The life of a container, by the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess

import pytest
from support.bundles import Bundle, Runtime, eventually

pytestmark = pytest.mark.root


def test_run_carries_streams_and_exit_code(runtime: Runtime, bundle: Bundle) -> None:
    result = runtime.run(bundle.args("cat; echo oops >&2; exit 7"), stdin="hello\n")
    assert (result.status, result.out) == (7, "hello\n")
    assert "oops\n" in result.err


def test_death_by_signal_is_128_plus_its_number(runtime: Runtime, bundle: Bundle) -> None:
    result = runtime.run(bundle.args("sh -c 'kill -9 $$'; exit $?"))
    assert result.status == 137


def test_create_start_stop_delete(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.args("sleep", "100"))
    state = runtime.state(container)
    assert state["status"] == "created"
    assert state["id"] == container
    assert state["bundle"] == bundle.path
    assert os.path.exists(f"/proc/{state['pid']}")
    runtime("start", container).ok()
    assert runtime.state(container)["status"] == "running"
    assert runtime.state(container)["pid"] == state["pid"]
    assert runtime("delete", container).status != 0, "a running container is not deleted"
    runtime("kill", container, "KILL").ok()
    runtime.await_status(container, "stopped")
    assert runtime("start", container).status != 0
    runtime("delete", container).ok()
    assert runtime("state", container).status != 0


def test_a_created_container_has_not_run(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.args("touch", "/ran"))
    assert not os.path.exists(f"{bundle.rootfs}/ran")
    runtime("start", container).ok()
    runtime.await_status(container, "stopped")
    assert os.path.exists(f"{bundle.rootfs}/ran")


def test_a_created_container_can_be_deleted(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.args("sleep", "100"))
    pid = runtime.state(container)["pid"]
    runtime("delete", "--force", container).ok()
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), "init is left")


def test_an_id_is_taken_once(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.create(bundle.args("sleep", "100"))
    result = runtime("create", "--bundle", bundle.path, container)
    assert result.status == 1
    assert "exist" in result.err
    assert runtime.state(container)["status"] == "created"


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "é"])
def test_bad_ids_are_refused(ours: Runtime, bundle: Bundle, name: str) -> None:
    bundle.write()
    result = ours("create", "--bundle", bundle.path, name)
    assert result.status == 1
    assert "container id cannot be empty" in result.err or "invalid container ID format" in result.err


def test_unknown_containers(runtime: Runtime) -> None:
    for command in (["state"], ["start"], ["delete"], ["kill"], ["pause"], ["exec", "x"]):
        name, *rest = command
        assert runtime(name, "nobody", *rest).status in (1, 255), name
    assert runtime("delete", "--force", "nobody").status == 0


def test_kill_sends_the_signal(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("trap 'exit 3' USR1; touch /up; while :; do sleep 0.05; done"))
    eventually(lambda: os.path.exists(f"{bundle.rootfs}/up"), "the script does not run")
    runtime("kill", container, "SIGUSR1").ok()
    runtime.await_status(container, "stopped")
    result = runtime("kill", container, "TERM")
    assert result.status == 1


def test_kill_of_a_stopped_container_has_the_words_that_shims_look_for(ours: Runtime, bundle: Bundle) -> None:
    container = ours.start(bundle.args("true", ""))
    ours.await_status(container, "stopped")
    assert "container not running" in ours("kill", container, "9").err
    assert 'unknown signal "FOO"' in ours("kill", container, "FOO").message


def test_list(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    assert runtime("list", "-q").ok() == f"{container}\n"
    (entry,) = json.loads(runtime("list", "-f", "json").ok())
    assert (entry["id"], entry["status"], entry["bundle"]) == (container, "running", bundle.path)
    title, row = runtime("list").ok().splitlines()
    assert title.split()[:4] == ["ID", "PID", "STATUS", "BUNDLE"] or runtime.name == "crun"
    assert row.split()[0] == container


def test_an_empty_list_is_null_in_json(ours: Runtime) -> None:
    assert ours("list", "-f", "json").ok() == "null\n"


def test_pause_and_resume(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    runtime("pause", container).ok()
    assert runtime.state(container)["status"] == "paused"
    assert runtime("exec", container, "true").status == 255 or runtime.name == "crun"
    runtime("resume", container).ok()
    assert runtime.state(container)["status"] == "running"


def test_a_paused_container_can_be_deleted_by_force(ours: Runtime, bundle: Bundle) -> None:
    container = ours.start(bundle.args("sleep", "100"))
    ours("pause", container).ok()
    ours("delete", "--force", container).ok()
    assert ours("state", container).status == 1


@pytest.mark.skipif(shutil.which("ps") is None, reason="ps(1) is not installed")
def test_ps(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    pid = runtime.state(container)["pid"]
    assert json.loads(runtime("ps", "-f", "json", container).ok()) == [pid]
    if runtime.name != "crun":
        lines = runtime("ps", container).ok().splitlines()
        assert len(lines) == 2
        assert str(pid) in lines[1].split()


def test_without_a_pid_namespace_kill_ends_all(ours: Runtime, bundle: Bundle) -> None:
    container = ours.start(bundle.without_namespace("pid").args("sleep 100 & sleep 200 & touch /up; wait"))
    eventually(lambda: os.path.exists(f"{bundle.rootfs}/up"), "the script does not run")
    pids = json.loads(ours("ps", "-f", "json", container).ok())
    assert len(pids) == 3
    ours("delete", "--force", container).ok()
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "processes are left")


def test_pid_file(runtime: Runtime, bundle: Bundle) -> None:
    path = f"{bundle.path}/pid"
    container = runtime.create(bundle.args("sleep", "100"), "--pid-file", path)
    with open(path, encoding="utf-8") as file:
        assert int(file.read()) == runtime.state(container)["pid"]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("nonexistent", "executable file not found in $PATH"),
        ("/nonexistent", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/etc", "denied|directory"),
    ],
)
def test_what_cannot_run_fails_at_create(runtime: Runtime, bundle: Bundle, program: str, words: str) -> None:
    bundle.args(program, "x")
    container = runtime.new_id(bundle)
    bundle.write()
    result = runtime("create", "--bundle", bundle.path, container)
    assert result.status == 1
    assert any(word in result.err.lower() for word in words.lower().split("|")) or runtime.name == "crun"
    assert runtime("state", container).status != 0


def test_the_create_error_reads_as_runcs(ours: Runtime, bundle: Bundle) -> None:
    bundle.args("foo", "x")
    container = ours.new_id(bundle)
    bundle.write()
    log = f"{bundle.path}/log.json"
    result = ours("--log", log, "--log-format", "json", "create", "--bundle", bundle.path, container)
    text = 'runc create failed: unable to start container process: exec: "foo": executable file not found in $PATH'
    assert (result.status, result.err) == (1, text + "\n")
    with open(log, encoding="utf-8") as file:
        entry = json.loads(file.read())
    assert (entry["level"], entry["msg"]) == ("error", text)


def test_a_program_of_the_wrong_format_fails_at_start(ours: Runtime, bundle: Bundle) -> None:
    with open(f"{bundle.rootfs}/bin/bad", "wb") as file:
        file.write(b"\x7fELF nonsense")
    os.chmod(f"{bundle.rootfs}/bin/bad", 0o755)
    container = ours.create(bundle.args("/bin/bad", ""))
    result = ours("start", container)
    assert result.status == 1
    assert "exec /bin/bad: exec format error" in result.err


def _offsets(bundle: Bundle, offsets: dict[str, dict[str, int]]) -> None:
    bundle.linux["namespaces"].append({"type": "time"})
    bundle.linux["timeOffsets"] = offsets


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b.process.update(args=[]), "process.args must not be empty"),
        (lambda b: b.process.update(cwd="tmp"), "Cwd property must be an absolute path"),
        (lambda b: b.process["user"].update(uid=2**32 - 1), "process.user.uid is 4294967295"),
        (lambda b: b.process.update(env=["NOPE"]), "missing '='"),
        (lambda b: b.process.update(rlimits=[{"type": "RLIMIT_X", "hard": 1, "soft": 1}]), "RLIMIT_X"),
        (lambda b: b.process.update(rlimits=[{"type": "RLIMIT_CORE", "hard": 1, "soft": 2}]), "2 is above hard 1"),
        (lambda b: b.spec["root"].update(path="nowhere"), "invalid rootfs"),
        (lambda b: b.spec["root"].update(path="/"), "the root of the host"),
        (lambda b: b.mount("/", "tmpfs", "tmpfs"), "on the top of the root filesystem"),
        (lambda b: b.mount("/proc/sys", "tmpfs", "tmpfs"), "it is inside /proc"),
        (lambda b: b.mount("/x", "", "/no/such", "bind"), '"/no/such" to rootfs at "/x"'),
        (lambda b: b.mount("/x", "tmpfs", "tmpfs", "frob=1"), "frob"),
        (lambda b: b.linux["namespaces"].append({"type": "pid"}), 'duplicated ns "pid"'),
        (lambda b: b.linux["namespaces"].append({"type": "moon"}), 'unknown type "moon"'),
        (lambda b: b.linux["namespaces"].append({"type": "user"}), "nor mappings to apply"),
        (lambda b: b.without_namespace("uts"), "unable to set hostname without a private UTS namespace"),
        (lambda b: b.linux.update(sysctl={"kernel.panic": "1"}), "not in a separate kernel namespace"),
        (lambda b: b.linux.update(rootfsPropagation="sideways"), "linux.rootfsPropagation"),
        (lambda b: b.linux.update(namespaces=3), "$.linux.namespaces"),
        (lambda b: b.linux.update(netDevices={"no/such": {}}), 'invalid network device name "no/such"'),
        (lambda b: b.linux.update(netDevices={"x": {"name": "x" * 16}}), "invalid network device name"),
        (lambda b: b.linux.update(netDevices={"none-such0": {}}), "link not found for interface none-such0"),
        (lambda b: b.without_namespace("network").linux.update(netDevices={"x": {}}), "without a NET namespace"),
        (lambda b: b.linux.update(intelRdt={"closID": "a/b"}), 'linux.intelRdt.closID is "a/b"'),
        (lambda b: b.linux.update(intelRdt={"memBwSchema": "MB:0=1\nL3:0=1"}), "more than one line"),
        (lambda b: b.linux.update(timeOffsets={"monotonic": {"secs": 1}}), "time namespace isn't enabled"),
        (lambda b: _offsets(b, {"realtime": {"secs": 1}}), 'clock "realtime", expected monotonic or boottime'),
        (lambda b: _offsets(b, {"boottime": {"nanosecs": 10**9}}), "linux.timeOffsets.boottime.nanosecs"),
        (lambda b: b.linux.update(personality={"domain": "BSD"}), 'linux.personality.domain is "BSD"'),
        (lambda b: b.without_namespace("mount"), "unable to restrict sys entries without a private MNT namespace"),
        (lambda b: b.process.update(args=["true"], user={"uid": "x"}), "$.process.user.uid"),
        (lambda b: b.spec.update(ociVersion="2.0.0"), 'ociVersion is "2.0.0", expected 1.x'),
        (lambda b: b.spec.update(ociVersion="1.x"), 'ociVersion is "1.x", expected a version as 1.3.0'),
        (lambda b: b.spec.pop("ociVersion"), "missing required field `ociVersion`"),
    ],
)  # fmt: skip
def test_bad_specs_are_refused_by_name_and_leave_nothing(ours: Runtime, bundle: Bundle, change, words) -> None:
    change(bundle.args("true", ""))
    container = ours.new_id(bundle)
    bundle.write()
    result = ours("create", "--bundle", bundle.path, container)
    assert result.status == 1
    assert words in result.message
    assert result.err.count("\n") == 1
    assert ours("list", "-q").ok() == ""


def test_a_missing_bundle(ours: Runtime) -> None:
    result = ours("create", "--bundle", "/nonexistent", "x")
    assert result.status == 1
    assert "config.json not found" in result.err


def test_signals_reach_a_process_in_the_foreground(runtime: Runtime, bundle: Bundle) -> None:
    bundle.args("trap 'exit 9' TERM; touch /up; while :; do sleep 0.05; done")
    container = runtime.new_id(bundle)
    bundle.write()
    process = subprocess.Popen(
        [*runtime.command, "--root", runtime.root, "run", "--bundle", bundle.path, container],
        stdin=subprocess.DEVNULL,
    )
    eventually(lambda: os.path.exists(f"{bundle.rootfs}/up"), "the script does not run")
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 9


def test_update_and_events(runtime: Runtime, bundle: Bundle) -> None:
    container = runtime.start(bundle.args("sleep", "100"))
    runtime("update", "--pids-limit", "77", container).ok()
    hierarchy = "pids/" if os.path.isdir("/sys/fs/cgroup/pids") else ""
    with open(f"/sys/fs/cgroup/{hierarchy}orlop-oci/{container}/pids.max", encoding="utf-8") as file:
        assert file.read() == "77\n"
    if runtime.name != "crun":
        event = json.loads(runtime("events", "--stats", container).ok())
        assert (event["type"], event["id"]) == ("stats", container)
        assert event["data"]["pids"] == {"current": 1, "limit": 77}
        assert event["data"]["memory"]["usage"]["usage"] > 0


def test_run_keep(ours: Runtime, bundle: Bundle) -> None:
    ours.run(bundle.args("true", ""), "--keep").ok()
    assert ours.state(ours.ids[-1])["status"] == "stopped"
    result = ours.run(bundle.args("true", ""))
    assert result.status == 0
    assert ours("state", ours.ids[-1]).status == 1


def test_features_and_version(ours: Runtime) -> None:
    features = json.loads(ours("features").ok())
    for name in ("seccomp", "intelRdt", "netDevices", "apparmor", "selinux"):
        assert features["linux"][name]["enabled"] is True
    assert features["linux"]["mountExtensions"]["idmap"]["enabled"] is True
    assert set(features["linux"]) == {
        "namespaces", "capabilities", "cgroup", "seccomp", "apparmor", "selinux", "intelRdt", "mountExtensions",
        "netDevices", "memoryPolicy",
    }  # fmt: skip
    assert set(features) == {
        "ociVersionMin", "ociVersionMax", "hooks", "mountOptions", "linux", "annotations",
        "potentiallyUnsafeConfigAnnotations",
    }  # fmt: skip
    assert features["linux"]["intelRdt"] == {"enabled": True, "schemata": True, "monitoring": True}
    assert "MPOL_BIND" in features["linux"]["memoryPolicy"]["modes"]
    assert "MPOL_F_STATIC_NODES" in features["linux"]["memoryPolicy"]["flags"]
    assert len(features["linux"]["seccomp"]["archs"]) == 23  # the specification's, in its version 1.3
    assert "rro" in features["mountOptions"]
    assert features["linux"]["namespaces"] == sorted(
        ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"]
    )
    first, *rest = ours("--version").ok().splitlines()
    assert first.startswith("orlop-runc version ")
    assert rest[-1].startswith("spec: 1.")


def test_spec_is_written_once(ours: Runtime, tmp_path) -> None:
    ours("spec", "--bundle", str(tmp_path)).ok()
    spec = json.loads((tmp_path / "config.json").read_text())
    assert spec["process"]["args"] == ["sh"]
    assert "exists" in ours("spec", "--bundle", str(tmp_path)).err


def test_wrong_usage(ours: Runtime) -> None:
    for words, text in (
        (["--foo", "list"], "flag provided but not defined: -foo"),
        (["frob"], "No help topic for 'frob'"),
        (["start"], '"start" requires exactly 1 argument(s)'),
        (["list", "-f", "xml"], "invalid format option"),
        (["--log-format", "xml", "list"], "invalid log-format: xml"),
        (["kill", "a", "b", "c"], "requires a minimum of 1"),
    ):
        result = ours(*words)
        assert result.status == 1
        assert text in result.message
