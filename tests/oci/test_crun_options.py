# SPDX-License-Identifier: Apache-2.0
"""What crun's command line has beyond runc's."""

from __future__ import annotations

import json
import os

import pytest
from support.bundles import Bundle, Runtime

pytestmark = pytest.mark.root


def test_another_config_file(ours: Runtime, bundle: Bundle) -> None:
    container = ours.new_id(bundle.args("echo other"))
    bundle.write()
    os.rename(f"{bundle.path}/config.json", f"{bundle.path}/other.json")
    assert ours("run", "-b", bundle.path, "-f", "other.json", container).ok() == "other\n"
    missing = ours("create", "-b", bundle.path, "--config", "none.json", container)
    assert missing.status == 1
    assert "JSON specification file none.json not found" in missing.message


def test_spec_into_another_file(ours: Runtime, tmp_path) -> None:
    ours("spec", "-f", "mine.json", cwd=tmp_path).ok()
    assert json.loads((tmp_path / "mine.json").read_text())["process"]["args"] == ["sh"]


def test_kill_and_delete_by_regular_expression(ours: Runtime) -> None:
    bundles = [ours.bundle() for _ in range(3)]
    ids = [ours.start(bundle.args("sleep", "100")) for bundle in bundles]
    several = f"^({ids[0]}|{ids[1]})$"
    ours("kill", "--regex", several, "KILL").ok()
    for container in ids[:2]:
        ours.await_status(container, "stopped")
    assert ours.state(ids[2])["status"] == "running"
    ours("delete", "-r", several).ok()
    assert ours("list", "-q").ok().split() == [ids[2]]
    wrong = ours("delete", "-r", "(")
    assert wrong.status == 1
    assert '"(" is no regular expression' in wrong.message


def test_without_control_groups(ours: Runtime, bundle: Bundle) -> None:
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        own = file.read()
    bundle.linux["resources"] = {}
    container = ours.new_id(bundle.without_namespace("cgroup").args("cat", "/proc/self/cgroup"))
    bundle.write()
    flags = ("run", "-b", bundle.path, container)
    assert ours("--cgroup-manager", "disabled", *flags).ok() == own
    bundle.linux["resources"] = {"pids": {"limit": 10}}
    bundle.write()
    refused = ours("--cgroup-manager=disabled", *flags)
    assert refused.status == 1
    assert "limits need a control group" in refused.message
    assert "expected cgroupfs, systemd or disabled" in ours("--cgroup-manager", "mine", *flags).message


@pytest.mark.parametrize(("level", "warned"), [("error", False), ("warning", True), ("debug", True)])
def test_log_level(ours: Runtime, bundle: Bundle, level: str, warned: bool) -> None:
    bundle.linux["personality"] = {"domain": "LINUX", "flags": ["X"]}
    container = ours.new_id(bundle.args("true", ""))
    bundle.write()
    result = ours("--log-level", level, "run", "-b", bundle.path, container)
    result.ok()
    assert ("linux.personality.flags" in result.err) == warned


def test_the_network_lock_of_a_checkpoint_is_known(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    container = ours.start(bundle.args("sleep", "100"))
    result = ours("checkpoint", "--image-path", str(tmp_path), "--network-lock", "rope", container)
    assert result.status == 1
    assert 'network-lock is "rope", expected iptables, nftables, skip' in result.message
    assert ours.state(container)["status"] == "running"


def _mounts(bundle: Bundle, *entries: dict[str, object]) -> str:
    path = f"{bundle.path}/mounts.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(entries, file)
    return path


@pytest.mark.parametrize("user_namespace", [False, True])
def test_mounts_of_a_running_container(ours: Runtime, bundle: Bundle, tmp_path, user_namespace: bool) -> None:
    (tmp_path / "file").write_text("from outside")
    if user_namespace:
        bundle.linux["namespaces"].append({"type": "user"})
        ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
        bundle.linux.update(uidMappings=ids, gidMappings=ids)
        for path in (tmp_path, *tmp_path.parents):
            os.chmod(path, os.stat(path).st_mode | 0o755) if str(path) != "/" else None
        os.chmod(ours.base, 0o755)
    os.mkdir(f"{bundle.rootfs}/data")
    container = ours.start(bundle.args("sleep", "100"))
    path = _mounts(
        bundle,
        {"destination": "/data", "type": "bind", "source": str(tmp_path), "options": ["rbind", "ro"]},
        {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]},
    )
    ours("mounts", "add", container, path).ok()
    seen = ours("exec", container, "sh", "-c", "cat /data/file; touch /data/x; grep ' /scratch ' /proc/mounts").out
    assert seen.startswith("from outside")
    assert "tmpfs /scratch tmpfs rw,nosuid" in seen
    assert not (tmp_path / "x").exists()
    ours("mounts", "remove", container, path).ok()
    assert ours("exec", container, "sh", "-c", "ls /data; grep -c ' /scratch ' /proc/mounts").out == "0\n"
    again = ours("mounts", "remove", container, path)
    assert again.status == 1
    assert 'unmounting "/scratch"' in again.message


def test_mounts_are_added_all_or_none(ours: Runtime, bundle: Bundle, tmp_path) -> None:
    """And through no link, and not over /proc."""
    os.symlink(str(tmp_path), f"{bundle.rootfs}/escape")
    container = ours.start(bundle.args("sleep", "100"))
    good = {"destination": "/good", "type": "tmpfs", "source": "tmpfs"}
    for bad, words in (
        ({"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]}, '"/no/such"'),
        ({"destination": "/x", "type": "tmpfs", "source": "tmpfs", "options": ["frob=1"]}, "frob"),
        ({"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"}, "inside /proc"),
    ):
        result = ours("mounts", "add", container, _mounts(bundle, good, bad))
        assert result.status == 1
        assert words in result.message
        assert ours("exec", container, "grep", "-c", " /good ", "/proc/mounts").out == "0\n"
    linked = {"destination": "/escape/in", "type": "tmpfs", "source": "tmpfs"}
    ours("mounts", "add", container, _mounts(bundle, linked)).ok()
    assert list(tmp_path.iterdir()) == []
    assert ours("exec", container, "grep", "-c", f" {tmp_path}/in ", "/proc/mounts").out == "1\n"
    for arguments, words in (
        (("add", "nobody", "/dev/null"), "does not exist"),
        (("swap", container, _mounts(bundle)), 'expected "add" or "remove"'),
    ):
        result = ours("mounts", *arguments)
        assert result.status == 1
        assert words in result.message or arguments[0] == "add"
    ours("kill", container, "KILL").ok()
    ours.await_status(container, "stopped")
    assert "container not running" in ours("mounts", "add", container, _mounts(bundle, good)).message
