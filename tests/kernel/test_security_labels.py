# SPDX-License-Identifier: Apache-2.0
"""Labels of AppArmor and SELinux, written where such a kernel would read them: this one has neither."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from orlop.errdefs import InvalidArgumentError
from orlop.libcontainer import security_label
from orlop.libcontainer.init import join_keyring
from orlop.libcontainer.rootfs.plan import context_of, plan_rootfs
from orlop.oci.runtime import Linux, Mount, Process, Root, Spec

LABEL = "system_u:object_r:svirt_sandbox_file_t:s0:c715,c811"


@pytest.fixture
def attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, list[str]]]:
    """Makes the named files of /proc/<pid>/attr; what is written to each is in the answer, in order."""
    written: dict[str, list[str]] = {}

    def write(procfs: int, path: str, value: str) -> None:
        name = path.removeprefix(f"{os.getpid()}/attr/")
        if name not in written or value.endswith("unknown"):
            raise FileNotFoundError(2, "No such file or directory", path)
        written[name].append(value)

    monkeypatch.setattr(security_label, "open_procfs", lambda: os.open(tmp_path, os.O_PATH | os.O_DIRECTORY))
    monkeypatch.setattr(security_label, "write_proc", write)

    def make(*names: str) -> dict[str, list[str]]:
        written.update({name: [] for name in names})
        for name in names:
            file = tmp_path / str(os.getpid()) / "attr" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return written

    return make


def _process(apparmor: str = "", selinux: str = "") -> Process:
    return Process(cwd="/", args=["true"], apparmor_profile=apparmor, selinux_label=selinux)


def test_apparmor(attributes) -> None:
    written = attributes("apparmor/exec", "exec")
    security_label.set_security_label(_process("docker-default"))
    assert written == {"apparmor/exec": ["exec docker-default"], "exec": []}


def test_apparmor_of_an_older_kernel(attributes) -> None:
    written = attributes("exec")
    security_label.set_security_label(_process("docker-default"))
    assert written == {"exec": ["exec docker-default"]}


def test_selinux_beside_apparmor(attributes) -> None:
    written = attributes("apparmor/exec", "exec")
    security_label.set_security_label(_process("docker-default", LABEL))
    assert written == {"apparmor/exec": ["exec docker-default"], "exec": [LABEL]}


def test_nothing_is_written_without_labels(attributes) -> None:
    written = attributes()
    security_label.set_security_label(_process())
    assert written == {}


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (
            _process("docker-default"),
            'process.apparmorProfile: unable to apply "docker-default": .*attr/exec: no such',
        ),
        (_process("", LABEL), "process.selinuxLabel: unable to apply .*attr/exec: no such file"),
    ],
)
def test_a_kernel_without_is_an_error(attributes, process: Process, words: str) -> None:
    attributes()
    with pytest.raises(InvalidArgumentError, match=words):
        security_label.set_security_label(process)


def test_a_profile_that_is_not_loaded(attributes) -> None:
    attributes("apparmor/exec", "exec")
    with pytest.raises(InvalidArgumentError, match='"unknown": no such profile is loaded'):
        security_label.set_security_label(_process("unknown"))


def test_the_keyring_has_the_label_and_later_keys_the_policys(attributes, monkeypatch) -> None:
    from orlop.libcontainer import init

    written = attributes("keycreate")
    made: list[list[str]] = []
    monkeypatch.setattr(
        init.proc, "keyctl_join_session_keyring", lambda name: made.append([*written["keycreate"]])
    )
    join_keyring("_ses.x", None, LABEL, restrict=False, in_user_namespace=False)
    assert made == [[LABEL]]
    assert written["keycreate"] == [LABEL, ""]


def test_quotes_around_a_label_are_mount8s(monkeypatch) -> None:
    """fsconfig(2) takes the value as it is."""
    from orlop.unix import mount

    values: dict[str, str] = {}
    monkeypatch.setattr(mount, "_set_string", lambda context, key, value: values.update({key: value}))
    options = [f'context="{LABEL}"', "mode=755"]
    os.close(mount.new_filesystem("tmpfs", "tmpfs", options))
    assert values == {"source": "tmpfs", "context": LABEL, "mode": "755"}


def test_new_filesystems_have_the_label_and_binds_their_own() -> None:
    kinds = {"/dev": "tmpfs", "/dev/pts": "devpts", "/dev/mqueue": "mqueue", "/proc": "proc", "/sys": "sysfs"}
    mounts = [Mount(destination=path, type=kind, source=kind) for path, kind in kinds.items()]
    mounts.append(Mount(destination="/b", type="bind", source="/", options=["rbind"]))
    spec = Spec(oci_version="1.0.2", root=Root(path="r"), mounts=mounts, linux=Linux())
    plan = plan_rootfs(spec, "/b", {}, label=LABEL)
    context = [f"context={LABEL}"]
    assert context_of(LABEL) == context
    assert [step.options.data for step in plan.mounts] == [context, context, [], [], [], []]
    assert [step.label for step in plan.mounts] == ["", "", LABEL, "", "", ""]
    assert plan.label == LABEL
