# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 (rows of a table)
"""Requests about containers: their life, their files, their streams, and what must be refused."""

from __future__ import annotations

import io
import tarfile
from typing import Any

from conformance.steps import JSON_TYPE, UPGRADE, Step


def _tar(name: str = "in", data: bytes = b"data\n") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


TAR = {"Content-Type": "application/x-tar"}
SLEEP: dict[str, Any] = {"Image": "busybox", "Cmd": ["sleep", "1000"], "StopTimeout": 0}


def _refused(name: str, *, apart: bool = False, **host_config: Any) -> Step:
    taken = f"apart-{name}" if apart else "refused"
    body = {**SLEEP, "HostConfig": host_config}
    return Step(f"create/{name}", "POST", f"/containers/create?name={taken}", body, apart=apart)


def _swept(steps: list[Step]) -> list[Step]:
    """The steps, and after each that should be refused the removal of what it made if it was not."""
    sweep = Step("sweep", "DELETE", "/containers/refused?force=1", quiet=True)
    return [each for step in steps for each in ((step, sweep) if "name=refused" in step.path else (step,))]


CREATED = [
    Step(
        "create/full", "POST", "/containers/create?name=full",
        {
            **SLEEP, "Hostname": "host", "Domainname": "example.org", "User": "1:1", "Env": ["A=b", "C"],
            "Labels": {"key": "value"}, "WorkingDir": "/tmp", "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGINT",
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1000000000, "Retries": 2}, "Volumes": {"/v": {}},
            "HostConfig": {
                "Memory": 67108864, "CpuShares": 512, "NanoCpus": 500000000, "PidsLimit": 50, "CapAdd": ["NET_ADMIN"],
                "CapDrop": ["MKNOD"], "Dns": ["192.0.2.1"], "DnsSearch": ["example.org"], "ExtraHosts": ["a:192.0.2.2"],
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "ReadonlyRootfs": True,
                "Tmpfs": {"/scratch": "size=1m"}, "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}, "ShmSize": 1048576, "Init": True,
                "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18080"}]}, "OomScoreAdj": 100,
                "Sysctls": {"net.ipv4.ip_forward": "0"}, "SecurityOpt": ["no-new-privileges"], "GroupAdd": ["10"],
            },
        },
    ),
    Step("inspect/full", "GET", "/containers/full/json"),
    Step("inspect/size", "GET", "/containers/full/json?size=1"),
    Step("create/plain", "POST", "/containers/create?name=plain", SLEEP, keep={"plain": "Id"}),
    Step("inspect/created", "GET", "/containers/plain/json"),
    Step("create/name-taken", "POST", "/containers/create?name=plain", SLEEP),
    Step("create/bad-name", "POST", "/containers/create?name=a", SLEEP),
    Step("create/worse-name", "POST", "/containers/create?name=-a%20b", SLEEP),
    Step("create/no-image", "POST", "/containers/create?name=refused", {"Image": "nosuch:tag", "Cmd": ["true"]}),
    Step("create/image-empty", "POST", "/containers/create?name=refused", {"Cmd": ["true"]}),
    Step("create/no-body", "POST", "/containers/create?name=refused"),
    Step("create/null-body", "POST", "/containers/create?name=refused", b"null", JSON_TYPE),
    Step("create/bad-json", "POST", "/containers/create?name=refused", b"{", JSON_TYPE),
    Step("create/wrong-type", "POST", "/containers/create?name=refused", b'{"Image": 1}', JSON_TYPE),
    Step("create/trailing", "POST", "/containers/create?name=refused", b'{"Image": "busybox"} {}', JSON_TYPE),
    Step("create/text", "POST", "/containers/create?name=refused", b"{}", {"Content-Type": "text/plain"}),
    Step("create/no-type", "POST", "/containers/create?name=refused", b"{}", {"Content-Type": ""}),
    Step("create/bad-platform", "POST", "/containers/create?name=refused&platform=a/b/c/d/e", SLEEP, since=(1, 41)),
    Step("create/relative-workdir", "POST", "/containers/create?name=refused", {**SLEEP, "WorkingDir": "a/b"}),
    Step("create/bad-env", "POST", "/containers/create?name=refused", {**SLEEP, "Env": ["=x"]}),
    Step("create/bad-signal", "POST", "/containers/create?name=refused", {**SLEEP, "StopSignal": "SIGNO"}),
    Step("create/bad-hostname", "POST", "/containers/create?name=refused", {**SLEEP, "Hostname": "-"}),
    Step("create/bad-health", "POST", "/containers/create?name=refused", {**SLEEP, "Healthcheck": {"Interval": 1}}),
    Step("create/negative-retries", "POST", "/containers/create?name=refused", {**SLEEP, "Healthcheck": {"Retries": -1}}),
    _refused("memory-small", Memory=1000),
    _refused("memory-swap-small", Memory=67108864, MemorySwap=1048576),
    _refused("swap-without-memory", MemorySwap=67108864),
    _refused("reservation-large", Memory=67108864, MemoryReservation=134217728),
    _refused("swappiness", MemorySwappiness=200),
    _refused("cpu-conflict", NanoCpus=1000000000, CpuQuota=1000),
    _refused("cpu-many", NanoCpus=1000000000000),
    _refused("cpu-period", CpuPeriod=1),
    _refused("cpu-quota", CpuQuota=1),
    _refused("cpuset", CpusetCpus="x"),
    _refused("cpuset-absent", CpusetCpus="500"),
    _refused("cpuset-mems", CpusetMems="9"),
    _refused("blkio-weight", BlkioWeight=5),
    _refused("restart-name", RestartPolicy={"Name": "sometimes"}),
    _refused("restart-count", RestartPolicy={"Name": "always", "MaximumRetryCount": 3}),
    _refused("restart-negative", RestartPolicy={"Name": "on-failure", "MaximumRetryCount": -3}),
    _refused("autoremove-restart", RestartPolicy={"Name": "always"}, AutoRemove=True),
    _refused("bind-relative", Binds=["a/b:relative"]),
    _refused("bind-root", Binds=["/tmp:/"]),
    _refused("bind-mode", Binds=["/tmp:/x:nosuch"]),
    _refused("bind-twice", Binds=["/tmp:/x", "/var:/x"]),
    _refused("bind-four", Binds=["/a:/b:/c:/d"]),
    _refused("mount-type", Mounts=[{"Type": "odd", "Target": "/x"}]),
    _refused("mount-no-target", Mounts=[{"Type": "volume"}]),
    _refused("mount-no-source", Mounts=[{"Type": "bind", "Target": "/x"}]),
    _refused("mount-missing", Mounts=[{"Type": "bind", "Source": "/nosuch/path", "Target": "/x"}]),
    _refused("mount-tmpfs-source", Mounts=[{"Type": "tmpfs", "Source": "/a", "Target": "/x"}]),
    _refused("mount-mixed", Mounts=[{"Type": "bind", "Source": "/tmp", "Target": "/x", "VolumeOptions": {}}]),
    _refused("network-absent", NetworkMode="nosuch"),
    _refused("network-container-absent", NetworkMode="container:nosuch"),
    _refused("pid-absent", PidMode="container:nosuch"),
    _refused("pid-mode", PidMode="odd"),
    _refused("ipc-mode", IpcMode="odd"),
    _refused("uts-mode", UTSMode="odd"),
    _refused("userns-mode", UsernsMode="odd"),
    _refused("cgroupns-mode", CgroupnsMode="odd"),
    _refused("runtime", Runtime="nosuch"),
    _refused("log-driver", apart=True, LogConfig={"Type": "nosuch"}),
    _refused("log-option", LogConfig={"Type": "json-file", "Config": {"odd": "1"}}),
    _refused("log-size", LogConfig={"Type": "json-file", "Config": {"max-size": "x"}}),
    _refused("capability", CapAdd=["NOSUCH"]),
    _refused("security-option", SecurityOpt=["nosuch:x"]),
    _refused("security-word", SecurityOpt=["nosuch"]),
    _refused("seccomp-json", SecurityOpt=["seccomp={"]),
    _refused("sysctl", Sysctls={"kernel.nosuch": "1"}),
    _refused("ulimit", Ulimits=[{"Name": "nosuch", "Soft": 1, "Hard": 1}]),
    _refused("ulimit-order", Ulimits=[{"Name": "nofile", "Soft": 2, "Hard": 1}]),
    _refused("port-range", PortBindings={"99999/tcp": []}),
    _refused("port-word", PortBindings={"80/tcp": [{"HostPort": "x"}]}),
    _refused("port-protocol", PortBindings={"80/odd": [{"HostPort": "1"}]}),
    _refused("dns", Dns=["x"]),
    _refused("extra-host", ExtraHosts=["odd"]),
    _refused("link-absent", Links=["nosuch:x"]),
    _refused("volumes-from-absent", VolumesFrom=["nosuch"]),
    _refused("volumes-from-mode", VolumesFrom=["plain:odd"]),
    _refused("shm-size", ShmSize=-1),
    _refused("oom-score", OomScoreAdj=2000),
    _refused("isolation", Isolation="hyperv"),
    _refused("storage-opt", StorageOpt={"odd": "1"}),
    _refused("device-request", DeviceRequests=[{"Driver": "nosuch", "Capabilities": [["x"]]}]),
    _refused("volume-driver", apart=True, VolumeDriver="nosuch", Binds=["named:/x"]),
    Step(
        "create/two-networks", "POST", "/containers/create",
        {**SLEEP, "NetworkingConfig": {"EndpointsConfig": {"bridge": {}, "host": {}}}}, until=(1, 43),
    ),
    Step("list/all", "GET", "/containers/json?all=1"),
    Step("list/running", "GET", "/containers/json"),
    Step("list/size", "GET", "/containers/json?all=1&size=1"),
    Step("list/limit", "GET", "/containers/json?all=1&limit=1"),
    Step("list/status", "GET", '/containers/json?all=1&filters={"status":["created"]}'),
    Step("list/label", "GET", '/containers/json?all=1&filters={"label":{"key=value":true}}'),
    Step("list/bad-status", "GET", '/containers/json?filters={"status":["odd"]}'),
    Step("list/bad-filter", "GET", '/containers/json?filters={"odd":["x"]}'),
    Step("list/bad-filters", "GET", "/containers/json?filters=odd"),
    Step("list/bad-limit", "GET", "/containers/json?limit=x"),
    Step("list/bad-health", "GET", '/containers/json?filters={"health":["odd"]}'),
    Step("list/bad-exited", "GET", '/containers/json?filters={"exited":["x"]}'),
    Step("list/before-absent", "GET", '/containers/json?filters={"before":["nosuch"]}'),
    Step("list/is-task", "GET", '/containers/json?all=1&filters={"is-task":["x"]}'),
    Step("rename", "POST", "/containers/full/rename?name=whole"),
    Step("rename/taken", "POST", "/containers/whole/rename?name=plain"),
    Step("rename/same", "POST", "/containers/whole/rename?name=whole"),
    Step("rename/empty", "POST", "/containers/whole/rename"),
    Step("rename/bad", "POST", "/containers/whole/rename?name=a%20b"),
    Step("rename/absent", "POST", "/containers/nosuch/rename?name=b1"),
]  # fmt: skip

NOT_RUNNING = [
    Step("stopped/stop", "POST", "/containers/plain/stop"),
    Step("stopped/kill", "POST", "/containers/plain/kill"),
    Step("stopped/pause", "POST", "/containers/plain/pause"),
    Step("stopped/unpause", "POST", "/containers/plain/unpause"),
    Step("stopped/top", "GET", "/containers/plain/top"),
    Step("stopped/stats", "GET", "/containers/plain/stats?stream=false"),
    Step("stopped/logs", "GET", "/containers/plain/logs?stdout=1"),
    Step("stopped/changes", "GET", "/containers/plain/changes"),
    Step("stopped/exec", "POST", "/containers/plain/exec", {"Cmd": ["true"]}),
    Step("stopped/resize", "POST", "/containers/plain/resize?h=1&w=1"),
    Step("stopped/update", "POST", "/containers/plain/update", {"CpuShares": 200}),
    Step("stopped/archive", "HEAD", "/containers/plain/archive?path=/etc"),
]

RUNNING = [
    Step("start", "POST", "/containers/plain/start"),
    Step("start/again", "POST", "/containers/plain/start"),
    Step("start/absent", "POST", "/containers/nosuch/start"),
    Step("start/checkpoint", "POST", "/containers/whole/start?checkpoint=x"),
    Step("start/body", "POST", "/containers/plain/start", {"Binds": []}),
    Step("inspect/running", "GET", "/containers/plain/json"),
    Step("inspect/prefix", "GET", "/containers/{plain}/json?size=true"),
    Step("inspect/absent", "GET", "/containers/nosuch/json"),
    Step("list/after-start", "GET", "/containers/json"),
    Step("top", "GET", "/containers/plain/top"),
    Step("top/args", "GET", "/containers/plain/top?ps_args=-o%20pid,comm"),
    Step("top/bad-args", "GET", "/containers/plain/top?ps_args=-o%20nosuch"),
    Step("top/no-pid", "GET", "/containers/plain/top?ps_args=-o%20comm"),
    Step("top/absent", "GET", "/containers/nosuch/top"),
    Step("stats", "GET", "/containers/plain/stats?stream=false"),
    Step("stats/one-shot", "GET", "/containers/plain/stats?stream=false&one-shot=true", since=(1, 41)),
    Step("stats/absent", "GET", "/containers/nosuch/stats?stream=false"),
    Step("update", "POST", "/containers/plain/update", {"CpuShares": 100, "RestartPolicy": {"Name": "always"}}),
    Step("update/back", "POST", "/containers/plain/update", {"RestartPolicy": {"Name": "no"}}),
    Step("update/bad", "POST", "/containers/plain/update", {"Memory": 1}),
    Step("update/restart", "POST", "/containers/plain/update", {"RestartPolicy": {"Name": "odd"}}),
    Step("update/no-body", "POST", "/containers/plain/update"),
    Step("update/absent", "POST", "/containers/nosuch/update", {}),
    Step("pause", "POST", "/containers/plain/pause"),
    Step("pause/again", "POST", "/containers/plain/pause"),
    Step("paused/inspect", "GET", "/containers/plain/json"),
    Step("paused/list", "GET", "/containers/json"),
    Step("paused/exec", "POST", "/containers/plain/exec", {"Cmd": ["true"]}),
    Step("paused/restart-refused", "POST", "/containers/plain/start"),
    Step("paused/remove", "DELETE", "/containers/plain"),
    Step("unpause", "POST", "/containers/plain/unpause"),
    Step("unpause/again", "POST", "/containers/plain/unpause"),
    Step("pause/absent", "POST", "/containers/nosuch/pause"),
    Step("resize", "POST", "/containers/plain/resize?h=40&w=80"),
    Step("resize/bad", "POST", "/containers/plain/resize?h=x&w=80"),
    Step("resize/none", "POST", "/containers/plain/resize"),
    Step("resize/absent", "POST", "/containers/nosuch/resize?h=4&w=4"),
    Step("remove/running", "DELETE", "/containers/plain"),
    Step("remove/link", "DELETE", "/containers/plain?link=1"),
    Step("kill/bad-signal", "POST", "/containers/plain/kill?signal=SIGNO"),
    Step("kill/number", "POST", "/containers/plain/kill?signal=0"),
    Step("kill/absent", "POST", "/containers/nosuch/kill"),
    Step("stop/bad-timeout", "POST", "/containers/plain/stop?t=x"),
    Step("stop/absent", "POST", "/containers/nosuch/stop"),
    Step("restart/absent", "POST", "/containers/nosuch/restart"),
    Step("restart", "POST", "/containers/plain/restart?t=0"),
    Step("wait/bad", "POST", "/containers/plain/wait?condition=odd", since=(1, 42)),
    Step("wait/absent", "POST", "/containers/nosuch/wait"),
]

EXECS = [
    Step("exec", "POST", "/containers/plain/exec", {
        "Cmd": ["sh", "-c", "cat; echo out; echo err >&2; exit 3"], "AttachStdin": True, "AttachStdout": True,
        "AttachStderr": True, "Env": ["X=1"], "WorkingDir": "/tmp", "User": "1", "DetachKeys": "ctrl-a",
    }, keep={"exec": "Id"}),
    Step("exec/inspect", "GET", "/exec/{exec}/json"),
    Step("exec/start", "POST", "/exec/{exec}/start", {"Detach": False}, UPGRADE, stdin=b"in\n"),
    Step("exec/again", "POST", "/exec/{exec}/start", {"Detach": False}),
    Step("exec/ended", "GET", "/exec/{exec}/json"),
    Step("exec/resize-ended", "POST", "/exec/{exec}/resize?h=1&w=1"),
    Step("exec/two", "POST", "/containers/plain/exec", {"Cmd": ["echo", "hi"], "AttachStdout": True}, keep={"two": "Id"}),
    Step("exec/start-plain", "POST", "/exec/{two}/start", {}, stdin=b""),
    Step("exec/three", "POST", "/containers/plain/exec", {"Cmd": ["true"]}, keep={"three": "Id"}),
    Step("exec/start-detached", "POST", "/exec/{three}/start", {"Detach": True}),
    Step("exec/tty", "POST", "/containers/plain/exec", {"Cmd": ["echo", "hi"], "AttachStdout": True, "Tty": True},
         keep={"tty": "Id"}),
    Step("exec/start-tty", "POST", "/exec/{tty}/start", {"Tty": True}, UPGRADE, stdin=b""),
    Step("exec/missing", "POST", "/containers/plain/exec", {"Cmd": ["nosuch"], "AttachStdout": True},
         keep={"missing": "Id"}),
    Step("exec/start-missing", "POST", "/exec/{missing}/start", {}, UPGRADE, stdin=b""),
    Step("exec/missing-inspect", "GET", "/exec/{missing}/json"),
    Step("exec/no-command", "POST", "/containers/plain/exec", {"Cmd": []}),
    Step("exec/no-body", "POST", "/containers/plain/exec"),
    Step("exec/bad-keys", "POST", "/containers/plain/exec", {"Cmd": ["true"], "DetachKeys": "ctrl-odd"}),
    Step("exec/absent-container", "POST", "/containers/nosuch/exec", {"Cmd": ["true"]}),
    Step("exec/absent", "GET", "/exec/nosuch/json"),
    Step("exec/start-absent", "POST", "/exec/nosuch/start", {}),
    Step("exec/start-no-body", "POST", "/exec/nosuch/start"),
    Step("exec/resize-absent", "POST", "/exec/nosuch/resize?h=1&w=1"),
    Step("exec/in-inspect", "GET", "/containers/plain/json"),
]  # fmt: skip

FILES = [
    Step("archive/put", "PUT", "/containers/plain/archive?path=/tmp", _tar(), TAR),
    Step("archive/stat", "HEAD", "/containers/plain/archive?path=/tmp/in"),
    Step("archive/get", "GET", "/containers/plain/archive?path=/tmp/in"),
    Step("archive/directory", "GET", "/containers/plain/archive?path=/tmp"),
    Step("archive/no-path", "GET", "/containers/plain/archive"),
    Step("archive/absent-path", "GET", "/containers/plain/archive?path=/nosuch"),
    Step("archive/stat-absent", "HEAD", "/containers/plain/archive?path=/nosuch"),
    Step("archive/absent", "GET", "/containers/nosuch/archive?path=/"),
    Step("archive/put-absent-path", "PUT", "/containers/plain/archive?path=/nosuch", _tar(), TAR),
    Step("archive/put-file", "PUT", "/containers/plain/archive?path=/tmp/in", _tar(), TAR),
    Step("archive/put-nothing", "PUT", "/containers/plain/archive", _tar(), TAR),
    Step("archive/put-no-tar", "PUT", "/containers/plain/archive?path=/tmp", b"this is no archive" * 60, TAR),
    Step("archive/put-dir-over-file", "PUT", "/containers/plain/archive?path=/&noOverwriteDirNonDir=1", _tar("tmp"), TAR),
    Step("changes", "GET", "/containers/plain/changes"),
    Step("changes/absent", "GET", "/containers/nosuch/changes"),
    Step("export/absent", "GET", "/containers/nosuch/export"),
    Step("checkpoints", "GET", "/containers/plain/checkpoints"),
    Step("checkpoint", "POST", "/containers/plain/checkpoints", {"CheckpointID": "x"}),
    Step("checkpoint/delete", "DELETE", "/containers/plain/checkpoints/x"),
]  # fmt: skip

_SPEAK = {"Image": "busybox", "Cmd": ["sh", "-c", "echo out; sleep 0.1; echo err >&2"]}
STREAMS = [
    Step("speak/create", "POST", "/containers/create?name=speak", _SPEAK, quiet=True),
    Step("speak/start", "POST", "/containers/speak/start", quiet=True),
    Step("wait", "POST", "/containers/speak/wait"),
    Step("speak/inspect", "GET", "/containers/speak/json"),
    Step("speak/list", "GET", "/containers/json?all=1"),
    Step("logs/both", "GET", "/containers/speak/logs?stdout=1&stderr=1"),
    Step("logs/stdout", "GET", "/containers/speak/logs?stdout=1"),
    Step("logs/stamped", "GET", "/containers/speak/logs?stderr=1&timestamps=1"),
    Step("logs/details", "GET", "/containers/speak/logs?stdout=1&details=1"),
    Step("logs/tail", "GET", "/containers/speak/logs?stdout=1&stderr=1&tail=1"),
    Step("logs/tail-odd", "GET", "/containers/speak/logs?stdout=1&stderr=1&tail=odd"),
    Step("logs/follow", "GET", "/containers/speak/logs?stdout=1&stderr=1&follow=1"),
    Step("logs/since-future", "GET", "/containers/speak/logs?stdout=1&since=9999999999"),
    Step("logs/since-odd", "GET", "/containers/speak/logs?stdout=1&since=odd"),
    Step("logs/until-past", "GET", "/containers/speak/logs?stdout=1&until=1"),
    Step("logs/neither", "GET", "/containers/speak/logs"),
    Step("logs/absent", "GET", "/containers/nosuch/logs?stdout=1"),
    Step("attach/stopped", "POST", "/containers/speak/attach?stdout=1&stream=1", stdin=b"", endless=True),
    Step("attach/logs", "POST", "/containers/speak/attach?stdout=1&stderr=1&logs=1", headers=UPGRADE, stdin=b""),
    Step("attach/absent", "POST", "/containers/nosuch/attach?stdout=1&stream=1", headers=UPGRADE, stdin=b""),
    Step("attach/bad-keys", "POST", "/containers/speak/attach?stream=1&detachKeys=ctrl-odd", headers=UPGRADE, stdin=b""),
    Step("kill/exited", "POST", "/containers/speak/kill"),
    Step("stop/exited", "POST", "/containers/speak/stop"),
    Step("top/exited", "GET", "/containers/speak/top"),
    Step("start/exited", "POST", "/containers/speak/start"),
    Step("wait/second", "POST", "/containers/speak/wait"),
    Step("cat/create", "POST", "/containers/create?name=cat", {
        "Image": "busybox", "Cmd": ["cat"], "OpenStdin": True, "StdinOnce": True,
        "AttachStdin": True, "AttachStdout": True}, quiet=True),
    Step("ttyed/create", "POST", "/containers/create?name=ttyed", {
        "Image": "busybox", "Cmd": ["echo", "tty"], "Tty": True}, quiet=True),
    Step("ttyed/start", "POST", "/containers/ttyed/start", quiet=True),
    Step("ttyed/wait", "POST", "/containers/ttyed/wait"),
    Step("ttyed/logs", "GET", "/containers/ttyed/logs?stdout=1"),
    Step("failing/create", "POST", "/containers/create?name=failing", {"Image": "busybox", "Cmd": ["nosuch"]}),
    Step("failing/start", "POST", "/containers/failing/start"),
    Step("failing/inspect", "GET", "/containers/failing/json"),
    Step("denied/create", "POST", "/containers/create?name=denied", {"Image": "busybox", "Cmd": ["/etc/passwd"]}),
    Step("denied/start", "POST", "/containers/denied/start"),
    Step("denied/inspect", "GET", "/containers/denied/json"),
    Step("user/create", "POST", "/containers/create?name=user", {**SLEEP, "User": "nosuch"}),
    Step("user/start", "POST", "/containers/user/start"),
    Step("directory/create", "POST", "/containers/create?name=directory", {
        **SLEEP, "HostConfig": {"Binds": ["/nosuch-source/x:/x:ro"]}}, quiet=True),
]  # fmt: skip

COMMITTED = [
    Step("commit", "POST", "/commit?container=plain&repo=committed&tag=one&comment=c&author=a&changes=ENV%20A=b"),
    Step("commit/inspect", "GET", "/images/committed:one/json"),
    Step("commit/absent", "POST", "/commit?container=nosuch"),
    Step("commit/none", "POST", "/commit"),
    Step("commit/bad-repository", "POST", "/commit?container=plain&repo=UPPER"),
    Step("commit/bad-change", "POST", "/commit?container=plain&changes=ODD%20x"),
    Step("commit/remove", "DELETE", "/images/committed:one"),
]

ENDED = [
    Step("stop", "POST", "/containers/plain/stop?t=0"),
    Step("stop/again", "POST", "/containers/plain/stop"),
    Step("wait/stopped", "POST", "/containers/plain/wait"),
    Step("inspect/stopped", "GET", "/containers/plain/json"),
    Step("list/exited", "GET", '/containers/json?all=1&filters={"exited":["137"]}'),
    Step("prune/bad-filter", "POST", '/containers/prune?filters={"odd":["x"]}', since=(1, 25)),
    Step("prune/bad-until", "POST", '/containers/prune?filters={"until":["x"]}', since=(1, 25)),
    Step("remove", "DELETE", "/containers/plain?v=1"),
    Step("remove/again", "DELETE", "/containers/plain"),
    Step("remove/force", "DELETE", "/containers/whole?force=1&v=1"),
    Step("remove/speak", "DELETE", "/containers/speak"),
    Step("prune", "POST", "/containers/prune", since=(1, 25)),
    Step("prune/again", "POST", "/containers/prune", since=(1, 25)),
]

STEPS = [*_swept(CREATED), *NOT_RUNNING, *RUNNING, *EXECS, *FILES, *STREAMS, *COMMITTED, *ENDED]
