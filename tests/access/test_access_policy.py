# SPDX-License-Identifier: Apache-2.0
"""The socket's policy: levels by ids, endpoints by level, and containers that reach out: pure."""

from __future__ import annotations

from typing import Any

import pytest

from orlop.dockerd.access import policy, rules
from orlop.dockerd.access.harmless import Owns, low_port, reaches_out
from orlop.dockerd.access.policy import Entry, Level
from orlop.engine.types import (
    DeviceMapping,
    HostConfig,
    LogConfig,
    Mount,
    MountOwner,
    PortBinding,
    VolumeDriverConfig,
    VolumeOptions,
)
from orlop.errdefs import InvalidArgumentError

ENTRIES = [
    Entry(user="alice", allow="own"),
    Entry(group="viewers", allow="read"),
    Entry(group="500", allow="all"),
    Entry(user="1003", allow="read"),
    Entry(user="nobody-of-that-name", allow="all"),
]
USERS, GROUPS = {"alice": 1001, "1003": 1003}, {"viewers": 400, "500": 500}


@pytest.mark.parametrize(("uid", "gids", "level"), [
    (0, [0], Level.ALL),
    (1001, [1001], Level.OWN),
    (1001, [1001, 400], Level.OWN),
    (1001, [500], Level.ALL),
    (1002, [400], Level.READ),
    (1002, [1002], Level.NOTHING),
    (1003, [], Level.READ),
])  # fmt: skip
def test_levels(uid: int, gids: list[int], level: Level) -> None:
    assert policy.level_of(uid, gids, ENTRIES, uid_of=USERS.get, gid_of=GROUPS.get) == level


@pytest.mark.parametrize(("entry", "message"), [
    (Entry(allow="all"), "socket-policy: entry 0: expected either user or group"),
    (Entry(user="a", group="b", allow="all"), "expected either user or group"),
    (Entry(user="a", allow="some"), "allow is 'some', expected one of read, own, all"),
])  # fmt: skip
def test_wrong_policies(entry: Entry, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        policy.check([entry])


def test_every_endpoint_has_a_level() -> None:
    assert rules.needed("GET", "/_ping") == Level.NOTHING
    assert rules.needed("GET", "/containers/json") == Level.READ
    for looks_into in ("archive", "export", "attach/ws"):
        assert rules.needed("GET", f"/containers/{{id}}/{looks_into}") == Level.OWN
    assert rules.needed("POST", "/something/new") == Level.ALL
    for method, template in (("POST", "/networks/create"), ("POST", "/grpc"), ("GET", "/images/get")):
        assert rules.needed(method, template) == Level.ALL
    assert rules.must_own("POST", "/containers/{id}/exec") == "container"
    assert rules.must_own("GET", "/system/df") is None
    assert rules.must_own("GET", "/images/json") == ""


OWNS = Owns(lambda name: name == "mine", lambda name: name == "data", lambda name: name == "net")


@pytest.mark.parametrize(("field", "host"), [
    ("Privileged", {"privileged": True}),
    ("Binds", {"binds": ["/etc:/x"]}),
    ("Binds", {"binds": ["foreign:/x"]}),
    ("CapAdd", {"cap_add": ["NET_ADMIN"]}),
    ("Devices", {"devices": [DeviceMapping(path_on_host="/dev/sda")]}),
    ("SecurityOpt", {"security_opt": ["seccomp=unconfined"]}),
    ("MaskedPaths", {"masked_paths": []}),
    ("NetworkMode", {"network_mode": "host"}),
    ("NetworkMode", {"network_mode": "container:other"}),
    ("NetworkMode", {"network_mode": "theirs"}),
    ("PidMode", {"pid_mode": "host"}),
    ("PidMode", {"pid_mode": "container:other"}),
    ("IpcMode", {"ipc_mode": "host"}),
    ("UTSMode", {"uts_mode": "host"}),
    ("UsernsMode", {"userns_mode": "host"}),
    ("CgroupnsMode", {"cgroupns_mode": "host"}),
    ("CgroupParent", {"cgroup_parent": "/"}),
    ("Runtime", {"runtime": "other"}),
    ("Sysctls", {"sysctls": {"net.core.somaxconn": "1"}}),
    ("OomScoreAdj", {"oom_score_adj": -5}),
    ("VolumesFrom", {"volumes_from": ["other:ro"]}),
    ("Links", {"links": ["/other:db"]}),
    ("LogConfig", {"log_config": LogConfig(type="syslog")}),
    ("Mounts", {"mounts": [Mount(type="bind", source="/", target="/x")]}),
    ("Mounts", {"mounts": [Mount(type="volume", source="foreign", target="/x")]}),
    ("Mounts", {"mounts": [Mount(type="volume", source="data", target="/x", owner=MountOwner(uid=0, gid=0))]}),
    ("Mounts", {"mounts": [Mount(type="volume", target="/x", volume_options=VolumeOptions(
        driver_config=VolumeDriverConfig(options={"type": "none", "o": "bind", "device": "/"})))]}),
    ("PortBindings", {"port_bindings": {"80/tcp": [PortBinding(host_port="80")]}}),
])  # fmt: skip
def test_what_reaches_out(field: str, host: dict[str, Any]) -> None:
    assert reaches_out(HostConfig(**host), [], OWNS) == f"HostConfig.{field}"


@pytest.mark.parametrize("host", [
    {},
    {"binds": ["/anonymous", "data:/x:ro"], "network_mode": "bridge", "memory": 1 << 20, "init": True},
    {"network_mode": "container:mine", "pid_mode": "container:mine", "volumes_from": ["mine"], "links": ["mine"]},
    {"network_mode": "net", "ipc_mode": "private", "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]},
    {"mounts": [Mount(type="tmpfs", target="/t"), Mount(type="volume", source="data", target="/x")]},
    {"port_bindings": {"80/tcp": [PortBinding(host_port="8080"), PortBinding()], "81/tcp": None}},
])  # fmt: skip
def test_what_does_not(host: dict[str, Any]) -> None:
    assert reaches_out(HostConfig(**host), ["bridge"], OWNS) == ""


def test_another_s_network_by_the_other_way() -> None:
    assert reaches_out(HostConfig(), ["theirs"], OWNS) == "HostConfig.NetworkMode"
    assert low_port({"80/tcp": [PortBinding(host_port="1023-1030")]})
