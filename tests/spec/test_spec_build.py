# SPDX-License-Identifier: Apache-2.0
"""From a container's configuration to its OCI specification, without a daemon."""

import json
import os

import pytest

from orlop.dockerd.spec import (
    Host,
    MountPoint,
    SpecRequest,
    apply_defaults,
    build_spec,
    command_line,
    resources_of,
)
from orlop.dockerd.spec.mounts import parse_mount
from orlop.dockerd.spec.process import merge_environment
from orlop.engine.types import (
    BindOptions,
    ContainerConfig,
    DeviceMapping,
    HostConfig,
    Mount,
    ThrottleDevice,
    TmpfsOptions,
    Ulimit,
)
from orlop.errdefs import InvalidArgumentError
from orlop.oci.defaults import DEFAULT_CAPABILITIES, containerd_default_spec
from orlop.oci.runtime import User

HOST = Host(cgroup_v2=False, kernel=(6, 18), oom_kill_disable=True, memory_swappiness=True)


def build(config=None, host=HOST, **fields):
    own = {key: fields.pop(key) for key in list(fields) if key in SpecRequest.__struct_fields__}
    config = config or ContainerConfig(hostname="abc", cmd=["true"])
    host_config = apply_defaults(HostConfig(**fields), host)
    request = {
        "id": "f00",
        "config": config,
        "host_config": host_config,
        "host": host,
        "args": command_line(config),
    }
    return build_spec(SpecRequest(**{**request, **own}))


def kinds(spec):
    return [namespace.type for namespace in spec.linux.namespaces]


def mount_at(spec, destination):
    (found,) = [mount for mount in spec.mounts if mount.destination == destination]
    return found


def test_a_plain_container():
    spec = build(network_namespace_path="/run/netns/x", user=User(uid=5, gid=6, additional_gids=[6]))
    assert spec.process.args == ["true"] and spec.process.cwd == "/"
    assert spec.process.env == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME=abc",
    ]
    assert spec.process.user.uid == 5 and spec.process.oom_score_adj == 0
    assert spec.hostname == "abc" and spec.root.path == "rootfs" and not spec.root.readonly
    assert spec.process.capabilities.bounding == list(DEFAULT_CAPABILITIES)
    assert spec.process.capabilities.inheritable == [] and spec.process.capabilities.ambient == []
    assert kinds(spec) == ["mount", "network", "uts", "pid", "ipc"]
    assert spec.linux.namespaces[1].path == "/run/netns/x"
    assert spec.linux.cgroups_path == "/docker/f00"
    assert spec.linux.resources.devices[0].allow is False
    assert (
        "/proc/interrupts" in spec.linux.masked_paths
        and "/sys/devices/virtual/powercap" in spec.linux.masked_paths
    )
    assert spec.linux.readonly_paths[0] == "/proc/bus"
    assert spec.linux.sysctl == {
        "net.ipv4.ping_group_range": "0 2147483647",
        "net.ipv4.ip_unprivileged_port_start": "0",
    }
    assert spec.linux.seccomp.default_action == "SCMP_ACT_ERRNO"
    assert [mount.destination for mount in spec.mounts] == [
        "/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm",
    ]  # fmt: skip
    assert mount_at(spec, "/dev/shm").options[-1] == "size=67108864"
    assert "ro" in mount_at(spec, "/sys/fs/cgroup").options


def test_environment_keeps_places_and_takes_away():
    config = ContainerConfig(hostname="h", tty=True, env=["A=1", "PATH=/x", "TERM", "B"], cmd=["x"])
    spec = build(config, link_env=["DB_PORT=1"])
    assert spec.process.env == ["PATH=/x", "HOSTNAME=h", "DB_PORT=1", "A=1"]
    assert merge_environment(["A=1"], ["A=2", "A=3"]) == ["A=3"]


def test_terminal_and_console_size():
    config = ContainerConfig(tty=True, cmd=["sh"])
    spec = build(config, console_size=[24, 80])
    assert spec.process.terminal and (spec.process.console_size.height, spec.process.console_size.width) == (
        24,
        80,
    )
    assert build(config).process.console_size is None


def test_command_line():
    assert command_line(ContainerConfig(entrypoint=["a", "b"], cmd=["c"])) == ["a", "b", "c"]
    assert command_line(ContainerConfig(entrypoint="a")) == ["a"]
    with pytest.raises(InvalidArgumentError, match="no command specified"):
        command_line(ContainerConfig())


def test_privileged():
    spec = build(privileged=True)
    assert len(spec.process.capabilities.bounding) == 41
    assert spec.linux.seccomp is None and spec.linux.masked_paths == [] and spec.linux.readonly_paths == []
    assert "ro" not in mount_at(spec, "/sys").options and "ro" not in mount_at(spec, "/sys/fs/cgroup").options
    assert [(rule.allow, rule.access) for rule in spec.linux.resources.devices] == [(True, "rwm")]
    assert "/dev/full" in {device.path for device in spec.linux.devices}
    assert not any(device.path.startswith("/dev/pts") for device in spec.linux.devices)


def test_capabilities():
    bounding = build(cap_add=["NET_ADMIN"], cap_drop=["cap_mknod"]).process.capabilities.bounding
    assert "CAP_NET_ADMIN" in bounding and "CAP_MKNOD" not in bounding
    assert build(cap_drop=["ALL"], cap_add=["CHOWN"]).process.capabilities.bounding == ["CAP_CHOWN"]
    everything = build(cap_add=["all"], cap_drop=["SYS_ADMIN"]).process.capabilities.bounding
    assert len(everything) == 40 and "CAP_SYS_ADMIN" not in everything
    with pytest.raises(InvalidArgumentError, match='unknown capability: "CAP_FOO"'):
        build(cap_add=["foo"])


def test_seccomp_follows_capabilities_and_options():
    def allowed(spec):
        return {
            name for call in spec.linux.seccomp.syscalls if call.action == "SCMP_ACT_ALLOW" for name in call.names
        }

    assert "mount" not in allowed(build())
    assert "mount" in allowed(build(cap_add=["SYS_ADMIN"]))
    assert build(security_opt=["seccomp=unconfined"]).linux.seccomp is None
    assert build(seccomp_profile="unconfined").linux.seccomp is None
    assert build(seccomp_profile="unconfined", security_opt=["seccomp=builtin"]).linux.seccomp is not None
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "includes": None, "excludes": {}},
            {"name": "chmod", "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"name": "chown", "action": "SCMP_ACT_ERRNO", "excludes": {"minKernel": "4.8"}},
        ],
    }
    for where in ({"security_opt": [f"seccomp={json.dumps(profile)}"]}, {"seccomp_profile": json.dumps(profile)}):
        seccomp = build(**where).linux.seccomp
        assert seccomp.architectures == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
        assert [(call.names, call.errno_ret) for call in seccomp.syscalls] == [(["mkdir"], 5)]
    with pytest.raises(InvalidArgumentError, match="Decoding seccomp profile failed"):
        build(security_opt=["seccomp={"])
    profile["architectures"] = ["SCMP_ARCH_X86"]
    with pytest.raises(InvalidArgumentError, match="use either 'architectures' or 'archMap'"):
        build(security_opt=[f"seccomp={json.dumps(profile)}"])


def test_security_options():
    assert build(security_opt=["no-new-privileges"]).process.no_new_privileges
    assert not build(security_opt=["no-new-privileges:false"], no_new_privileges=True).process.no_new_privileges
    assert build(no_new_privileges=True).process.no_new_privileges
    spec = build(security_opt=["systempaths=unconfined"])
    assert spec.linux.masked_paths == [] and spec.linux.readonly_paths == []
    assert build(masked_paths=[], readonly_paths=["/proc/sys"]).linux.readonly_paths == ["/proc/sys"]
    confined = Host(apparmor=True, apparmor_default="docker-default")
    assert build(host=confined).process.apparmor_profile == "docker-default"
    assert build(host=confined, privileged=True).process.apparmor_profile == "unconfined"
    assert build(host=confined, security_opt=["apparmor=mine"]).process.apparmor_profile == "mine"
    assert build(security_opt=["apparmor=mine"]).process.apparmor_profile == ""
    with pytest.raises(InvalidArgumentError, match='invalid --security-opt 1: "nonsense"'):
        build(security_opt=["nonsense"])
    with pytest.raises(InvalidArgumentError, match='invalid --security-opt 2: "no=sense"'):
        build(security_opt=["no=sense"])


def test_namespaces_of_the_host_and_of_others():
    spec = build(
        network_mode="host", pid_mode="host", ipc_mode="host", uts_mode="host", cgroupns_mode="private",
    )  # fmt: skip
    assert kinds(spec) == ["mount", "cgroup"] and spec.hostname == "" and spec.linux.sysctl == {}
    spec = build(
        network_mode="container:1", network_namespace_path="/proc/7/ns/net",
        pid_mode="container:1", pid_namespace_path="/proc/7/ns/pid",
        ipc_mode="container:1", ipc_namespace_path="/proc/7/ns/ipc", shm_path="/shm/of/1",
    )  # fmt: skip
    assert [(n.type, n.path) for n in spec.linux.namespaces if n.path] == [
        ("network", "/proc/7/ns/net"), ("pid", "/proc/7/ns/pid"), ("ipc", "/proc/7/ns/ipc"),
    ]  # fmt: skip
    assert spec.linux.sysctl == {}
    assert mount_at(spec, "/dev/shm").source == "/shm/of/1"
    with pytest.raises(InvalidArgumentError, match="no path of the namespace"):
        build(pid_mode="container:1")
    assert kinds(build(host=Host(cgroup_v2=True)))[-1] == "cgroup"
    assert "/dev/shm" not in [mount.destination for mount in build(ipc_mode="none").mounts]


def test_resources():
    limits = {
        "memory": 64 << 20, "memory_reservation": 32 << 20, "memory_swappiness": 7, "nano_cpus": 1_500_000_000,
        "cpu_shares": 512, "cpuset_cpus": "0", "pids_limit": 9,
        "blkio_device_read_bps": [ThrottleDevice(path="/dev/null", rate=5)],
    }  # fmt: skip
    resources = build(**limits).linux.resources
    assert (resources.memory.limit, resources.memory.swap) == (64 << 20, 128 << 20)
    assert resources.memory.disable_oom_killer is False
    assert (resources.cpu.quota, resources.cpu.period, resources.cpu.shares) == (150000, 100000, 512)
    assert resources.pids.limit == 9
    throttle = resources.block_io.throttle_read_bps_device[0]
    assert (throttle.major, throttle.minor, throttle.rate) == (1, 3, 5)
    assert resources_of(HostConfig(memory=64 << 20, memory_swap=-1)).memory.swap == -1
    assert build(pids_limit=0).linux.resources.pids is None
    assert resources_of(HostConfig(pids_limit=0)).pids.limit == -1
    assert resources_of(HostConfig()).cpu is None


def test_devices():
    spec = build(
        devices=[DeviceMapping(path_on_host="/dev/zero", path_in_container="/dev/nil", cgroup_permissions="r")],
        device_cgroup_rules=["c 42:* rw"],
    )
    (node,) = spec.linux.devices
    assert (node.path, node.type, node.major, node.minor) == ("/dev/nil", "c", 1, 5)
    rules = [(rule.type, rule.major, rule.minor, rule.access) for rule in spec.linux.resources.devices[-2:]]
    assert rules == [("c", 1, 5, "r"), ("c", 42, None, "rw")]
    with pytest.raises(InvalidArgumentError, match=r'adding custom device "/etc": not a device node'):
        build(devices=[DeviceMapping(path_on_host="/etc", path_in_container="/dev/x")])
    with pytest.raises(InvalidArgumentError, match=r'adding custom device "/dev/nope": no such file'):
        build(devices=[DeviceMapping(path_on_host="/dev/nope", path_in_container="/dev/x")])
    with pytest.raises(InvalidArgumentError, match="invalid device cgroup rule format: 'c 1'"):
        build(device_cgroup_rules=["c 1"])


def test_a_directory_of_devices(tmp_path):
    if os.getuid() != 0:
        pytest.skip("needs root to make device nodes")
    (tmp_path / "sub").mkdir()
    os.mknod(tmp_path / "sub" / "a", 0o20600, os.makedev(1, 3))
    (tmp_path / "file").write_text("")
    spec = build(devices=[DeviceMapping(path_on_host=str(tmp_path), path_in_container="/dev/many")])
    assert [device.path for device in spec.linux.devices] == ["/dev/many/sub/a"]


def test_ulimits_merge_with_the_daemons():
    spec = build(
        ulimits=[Ulimit(name="nofile", soft=10, hard=20)],
        default_ulimits=[Ulimit(name="nofile", soft=1, hard=1), Ulimit(name="core", soft=-1, hard=-1)],
    )
    assert [(limit.type, limit.soft, limit.hard) for limit in spec.process.rlimits] == [
        ("RLIMIT_NOFILE", 10, 20),
        ("RLIMIT_CORE", 2**64 - 1, 2**64 - 1),
    ]


def test_mounts_are_ordered_and_replace_the_defaults():
    options = TmpfsOptions(size_bytes=1 << 20, mode=0o700)
    spec = build(
        mounts=[
            MountPoint(type="bind", source="/a", destination="/data/inner", propagation="rprivate"),
            MountPoint(type="bind", source="/b", destination="/data", rw=False, propagation="rprivate"),
            parse_mount(Mount(type="tmpfs", target="/scratch", tmpfs_options=options)),
            MountPoint(type="bind", source="/mine", destination="/etc/hosts", propagation="rprivate"),
            MountPoint(type="volume", name="v", source="/v/_data", destination="/dev/mqueue"),
        ],
        tmpfs={"/run": "size=1m,exec"},
        hosts_path="/c/hosts", resolv_conf_path="/c/resolv.conf", hostname_path="/c/hostname",
    )  # fmt: skip
    places = [mount.destination for mount in spec.mounts]
    assert places.index("/data") < places.index("/data/inner")
    assert places.count("/etc/hosts") == places.count("/dev/mqueue") == 1
    assert mount_at(spec, "/etc/hosts").source == "/mine"
    assert mount_at(spec, "/etc/resolv.conf").options == ["rbind", "rprivate"]
    assert mount_at(spec, "/data").options == ["rbind", "rro", "rprivate"]
    assert mount_at(spec, "/run").options == ["nosuid", "nodev", "rprivate", "size=1m", "exec"]
    assert mount_at(spec, "/scratch").options == ["noexec", "nosuid", "nodev", "rprivate", "mode=700", "size=1m"]
    with pytest.raises(InvalidArgumentError, match='invalid tmpfs option "bogus"'):
        build(tmpfs={"/run": "bogus"})


def test_a_mounted_dev_hides_what_is_below():
    spec = build(mounts=[MountPoint(type="bind", source="/dev", destination="/dev", propagation="rprivate")])
    assert [mount.destination for mount in spec.mounts if mount.destination.startswith("/dev")] == ["/dev"]


def test_read_only_rootfs():
    spec = build(
        readonly_rootfs=True,
        hosts_path="/c/hosts",
        mounts=[MountPoint(type="bind", source="/a", destination="/data", propagation="rprivate")],
    )
    assert spec.root.readonly
    assert "ro" in mount_at(spec, "/etc/hosts").options
    assert "ro" not in mount_at(spec, "/data").options and "ro" not in mount_at(spec, "/dev/shm").options


def test_read_only_binds_by_kernel_and_options():
    def options(host=HOST, **bind):
        point = MountPoint(type="bind", source="/a", destination="/d", rw=False, propagation="rprivate",
                           spec=Mount(type="bind", bind_options=BindOptions(**bind)))  # fmt: skip
        return mount_at(build(host=host, mounts=[point]), "/d").options

    old = Host(recursive_readonly=False)
    assert options(old) == ["rbind", "ro", "rprivate"]
    assert options(read_only_non_recursive=True) == ["rbind", "ro", "rprivate"]
    assert options(non_recursive=True) == ["bind", "rro", "rprivate"]
    with pytest.raises(InvalidArgumentError, match="need Linux 5"):
        options(old, read_only_force_recursive=True)
    with pytest.raises(InvalidArgumentError, match="mount options conflict"):
        options(read_only_force_recursive=True, read_only_non_recursive=True)


def test_init():
    spec = build(init=True, init_path="/usr/bin/tini")
    assert spec.process.args == ["/sbin/docker-init", "--", "true"]
    assert mount_at(spec, "/sbin/docker-init").source == "/usr/bin/tini"
    assert build(default_init=True, init_path="/t").process.args[0] == "/sbin/docker-init"
    assert build(init=True, pid_mode="host").process.args == ["true"]
    assert build(init=False, default_init=True).process.args == ["true"]
    with pytest.raises(InvalidArgumentError, match='exec: "docker-init": executable file not found'):
        build(init=True)


def test_odds_and_ends():
    config = ContainerConfig(domainname="example.org", hostname="h", working_dir="/w", cmd=["x"])
    spec = build(config, sysctls={"net.ipv4.ping_group_range": "1 0"}, annotations={"a": "b"}, oom_score_adj=-5)
    assert spec.linux.sysctl["kernel.domainname"] == "example.org"
    assert spec.linux.sysctl["net.ipv4.ping_group_range"] == "1 0"
    assert spec.annotations == {"a": "b"} and spec.process.oom_score_adj == -5 and spec.process.cwd == "/w"
    assert build(cgroup_parent="/mine").linux.cgroups_path == "/mine/f00"
    systemd = SpecRequest(
        id="x", config=config, host_config=HostConfig(), host=HOST, args=["x"], systemd_cgroup=True,
        cgroup_parent="system.slice",
    )  # fmt: skip
    assert build_spec(systemd).linux.cgroups_path == "system.slice:docker:x"


def test_defaults():
    config = apply_defaults(HostConfig(memory=8 << 20, privileged=True), HOST)
    assert config.memory_swap == 16 << 20 and config.shm_size == 64 << 20
    assert config.ipc_mode == "private" and config.cgroupns_mode == "host"
    assert config.security_opt == ["label=disable"] and config.masked_paths is None
    assert apply_defaults(HostConfig(), Host(cgroup_v2=True)).cgroupns_mode == "private"
    assert apply_defaults(HostConfig(), Host(cgroup_v2=True)).oom_kill_disable is None
    asked = HostConfig()
    apply_defaults(asked, HOST)
    assert asked == HostConfig()


def test_host_facts_are_those_of_this_machine():
    host = Host.probe()
    assert host.cpus == os.cpu_count() and host.memory_limit and host.cpuset_cpus
    assert "CAP_CHOWN" in host.capabilities
    assert all(warning.startswith("WARNING: ") for warning in host.warnings())


def test_containerds_default():
    spec = containerd_default_spec("one", "default")
    assert spec.linux.cgroups_path == "/default/one" and spec.process.no_new_privileges
    assert mount_at(spec, "/run").type == "tmpfs"
    assert spec.process.rlimits[0].hard == 1024
    assert "/proc/interrupts" not in spec.linux.masked_paths
