# SPDX-License-Identifier: Apache-2.0
"""The specifications that dockerd builds, run by the OCI runtimes of this machine."""

import os
import shutil
import subprocess

import pytest
from support.bundles import COMMANDS, command_of

from orlop.codec import encode
from orlop.dockerd.spec import Host, MountPoint, SpecRequest, apply_defaults, build_spec, command_line, validate
from orlop.engine.types import ContainerConfig, DeviceMapping, HostConfig, Ulimit
from orlop.oci.runtime import User

BUSYBOX = "/bin/busybox"
pytestmark = [
    pytest.mark.root,
    pytest.mark.original,
    pytest.mark.skipif(os.getuid() != 0, reason="needs root"),
    pytest.mark.skipif(not os.path.exists(BUSYBOX), reason="needs a static busybox"),
]


@pytest.fixture(params=COMMANDS)
def runtime(request):
    if not os.path.exists(COMMANDS[request.param]):
        pytest.skip(f"no {request.param} here")
    return command_of(request.param)


@pytest.fixture
def run(runtime, tmp_path):
    """Runs a shell command line in a container made from the configuration; gives its output."""
    rootfs = tmp_path / "bundle" / "rootfs"
    (rootfs / "bin").mkdir(parents=True)
    for name in ("etc", "data", "sbin"):
        (rootfs / name).mkdir()
    shutil.copy(BUSYBOX, rootfs / "bin" / "busybox")
    host = Host.probe()

    def run(script, config=None, user=None, **fields):
        made = {name: fields.pop(name) for name in list(fields) if name in SpecRequest.__struct_fields__}
        config = config or ContainerConfig(hostname="inside")
        config.cmd = ["/bin/busybox", "sh", "-c", script]
        host_config = HostConfig(network_mode="none", **fields)
        assert validate(config, host_config, host) == []
        host_config = apply_defaults(host_config, host)
        request = SpecRequest(
            id=f"orlop-spec-{os.getpid()}", config=config, host_config=host_config, host=host,
            args=command_line(config), user=user or User(additional_gids=[0]),
            cgroup_parent=f"/orlop-spec-{os.getpid()}", **made,
        )  # fmt: skip
        (tmp_path / "bundle" / "config.json").write_bytes(encode(build_spec(request)))
        done = subprocess.run(
            [*runtime, "--root", str(tmp_path / "state"), "run", "--bundle", str(tmp_path / "bundle"), request.id],
            check=False, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield run
    from orlop import cgroups

    cgroups.new_manager(f"/orlop-spec-{os.getpid()}").destroy()
    if os.path.exists(f"/sys/fs/cgroup/unified/orlop-spec-{os.getpid()}"):  # crun's on a hybrid system
        cgroups.load_manager({"": f"/sys/fs/cgroup/unified/orlop-spec-{os.getpid()}"}).destroy()


def test_defaults(run):
    output = run(
        "/bin/busybox hostname; echo $PATH $HOSTNAME; /bin/busybox id -u; "
        "/bin/busybox grep -E '^(CapBnd|CapEff|CapInh|CapAmb|Seccomp|NoNewPrivs):' /proc/self/status; "
        "/bin/busybox cat /proc/sys/net/ipv4/ip_unprivileged_port_start; "
        "/bin/busybox wc -c < /proc/interrupts; /bin/busybox touch /sys/x 2>&1; "
        "/bin/busybox stat -c %a /dev/shm; /bin/busybox grep -c . /proc/net/dev"
    )
    lines = output.splitlines()
    assert lines[0] == "inside" and lines[1].endswith(":/bin inside") and lines[2] == "0"
    status = dict(line.split(":\t") for line in lines if ":\t" in line)
    assert status["CapBnd"] == status["CapEff"] == "00000000a80425fb"
    assert status["CapInh"] == status["CapAmb"] == "0000000000000000"
    assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "0"
    assert lines[9] == "0" and lines[10] == "0" and "Read-only" in lines[11] and lines[12] == "1777"


def test_limits_user_and_options(run, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "seen").write_text("")
    output = run(
        "/bin/busybox id -u; /bin/busybox id -G; ulimit -n; /bin/busybox cat /proc/self/oom_score_adj; "
        "/bin/busybox pwd; /bin/busybox ls /data; /bin/busybox touch /data/new 2>&1; "
        "/bin/busybox touch /new 2>&1; "
        "/bin/busybox stat -c '%t:%T %a' /dev/nil; /bin/busybox stat -f -c %b /scratch; "
        "/bin/busybox grep NoNewPrivs /proc/self/status; echo $A$TERM",
        config=ContainerConfig(hostname="h", working_dir="/data", env=["A=b"]),
        user=User(uid=1000, gid=50, additional_gids=[50, 77]),
        ulimits=[Ulimit(name="nofile", soft=100, hard=100)],
        oom_score_adj=500,
        readonly_rootfs=True,
        mounts=[MountPoint(type="bind", source=str(tmp_path / "there"), destination="/data", rw=False,
                           propagation="rprivate")],
        devices=[DeviceMapping(path_on_host="/dev/null", path_in_container="/dev/nil", cgroup_permissions="rw")],
        tmpfs={"/scratch": "size=64k"},
        security_opt=["no-new-privileges"],
        memory=64 << 20, pids_limit=50, cpu_shares=512,
    ).splitlines()  # fmt: skip
    assert output[:6] == ["1000", "50 77", "100", "500", "/data", "seen"]
    assert "Read-only" in output[6] and "Read-only" in output[7]
    assert output[8].startswith("1:3 ") and output[9] == "16" and output[10].endswith("1") and output[11] == "b"


def test_privileged_and_shared_namespaces(run):
    output = run(
        "/bin/busybox grep -E '^(CapBnd|Seccomp):' /proc/self/status; /bin/busybox readlink /proc/self/ns/pid; "
        "/bin/busybox readlink /proc/self/ns/uts; /bin/busybox test -w /proc/sys/kernel/hostname; echo $?",
        privileged=True,
        pid_mode="host",
        uts_mode="host",
        config=ContainerConfig(),
    ).splitlines()
    with open("/proc/self/status") as status:
        bounding = next(line.split()[1] for line in status if line.startswith("CapBnd"))
    assert output[0] == f"CapBnd:\t{bounding}" and output[1] == "Seccomp:\t0"
    assert output[2] == os.readlink("/proc/self/ns/pid") and output[3] == os.readlink("/proc/self/ns/uts")
    assert output[4] == "0"
