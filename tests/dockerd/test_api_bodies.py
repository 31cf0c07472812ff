# SPDX-License-Identifier: Apache-2.0
"""Bodies of requests: keys in any case, and what older API versions did not know."""

from __future__ import annotations

from typing import Any

import pytest

from orlop import codec
from orlop.dockerd.api import legacy
from orlop.dockerd.api.fold import fold
from orlop.engine.types import CreateRequest
from orlop.errdefs import InvalidArgumentError


def _read(text: bytes) -> CreateRequest:
    return codec.decode(fold(text, CreateRequest), CreateRequest)


def test_keys_are_taken_in_any_case() -> None:
    body = _read(
        b'{"image":"busybox","hostconfig":{"memory":5,"CPURealtimePeriod":7,"Mounts":[{"type":"tmpfs","TARGET":"/x"}]},'
        b'"labels":{"hostconfig":"kept"}}'
    )
    assert body.host_config.cpu_realtime_period == 7
    assert (body.image, body.host_config.memory, body.labels) == ("busybox", 5, {"hostconfig": "kept"})
    assert (body.host_config.mounts[0].type, body.host_config.mounts[0].target) == ("tmpfs", "/x")


def test_an_exact_key_wins() -> None:
    assert _read(b'{"Image":"exact","image":"other"}').image == "exact"
    assert _read(b'{"image":"other","Image":"exact"}').image == "exact"


def _create(body: dict[str, Any], version: tuple[int, int]) -> CreateRequest:
    request = codec.convert(body, CreateRequest)
    legacy.create_request(request, version)
    return request


@pytest.mark.parametrize(("version", "ipc", "cgroupns"), [((1, 39), "shareable", "host"), ((1, 41), "", "")])
def test_defaults_of_older_versions(version: tuple[int, int], ipc: str, cgroupns: str) -> None:
    host_config = _create({}, version).host_config
    assert (host_config.ipc_mode, host_config.cgroupns_mode) == (ipc, cgroupns)


@pytest.mark.parametrize(
    ("version", "body", "message"),
    [
        ((1, 43), {"NetworkingConfig": {"EndpointsConfig": {"b": {}, "a": {}}}}, "network endpoints: a, b"),
        (
            (1, 44),
            {"HostConfig": {"Mounts": [{"Type": "volume", "VolumeOptions": {"Subpath": "x"}}]}},
            "needs API v1.45 or newer",
        ),
        (
            (1, 43),
            {"HostConfig": {"Mounts": [{"Type": "bind", "BindOptions": {"ReadOnlyNonRecursive": True}}]}},
            "needs API v1.44 or newer",
        ),
        (
            (1, 42),
            {"HostConfig": {"Mounts": [{"Type": "bind", "VolumeOptions": {}}]}},
            'VolumeOptions must not be specified on mount type "bind"',
        ),
        (
            (1, 48),
            {"HostConfig": {"Sysctls": {"net.ipv4.conf.eth0.forwarding": "1"}}},
            "\"net.ipv4.conf.eth0.forwarding\" must be supplied using driver option '.*endpoint.sysctls'",
        ),
        (
            (1, 47),
            {"HostConfig": {"Sysctls": {"net.ipv4.conf.eth1.forwarding": "1"}}},
            "unable to determine network endpoint for sysctl net.ipv4.conf.eth1.forwarding",
        ),
        (
            (1, 47),
            {
                "HostConfig": {"NetworkMode": "a", "Sysctls": {"net.ipv4.conf.eth0.forwarding": "1"}},
                "NetworkingConfig": {"EndpointsConfig": {"b": {}}},
            },
            "must match the identity of a network",
        ),
        ((1, 52), {"MacAddress": "02:00:00:00:00:01"}, "container-wide MAC address no longer supported"),
    ],
)
def test_what_a_version_refuses(version: tuple[int, int], body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        _create(body, version)


def test_sysctls_of_an_interface_move_to_its_endpoint() -> None:
    option = "com.docker.network.endpoint.sysctls"
    sysctls = {"net.ipv4.conf.eth0.forwarding": "1", "net.core.somaxconn": "5"}
    request = codec.convert({"HostConfig": {"Sysctls": dict(sysctls)}}, CreateRequest)
    moved = "net.ipv4.conf.IFNAME.forwarding=1"
    assert legacy.create_request(request, (1, 47)) == [
        f'Migrated sysctl "net.ipv4.conf.eth0.forwarding" to DriverOpts{{"{option}":"{moved}"}}.'
    ]
    assert request.host_config.sysctls == {"net.core.somaxconn": "5"}
    assert request.networking_config.endpoints_config["bridge"].driver_opts == {option: moved}
    said = "net.ipv4.conf.IFNAME.forwarding=0"
    endpoints = {"EndpointsConfig": {"net": {"DriverOpts": {option: said}}}}
    body = {"HostConfig": {"NetworkMode": "net", "Sysctls": dict(sysctls)}, "NetworkingConfig": endpoints}
    settings = _create(body, (1, 44)).networking_config.endpoints_config["net"]
    assert settings.driver_opts == {option: f"{moved},{said}"}
    body = {"HostConfig": {"NetworkMode": "host", "Sysctls": dict(sysctls)}}
    assert _create(body, (1, 50)).host_config.sysctls == sysctls


def test_what_a_version_ignores() -> None:
    mount = {"Type": "bind", "BindOptions": {"NonRecursive": True, "CreateMountpoint": True}}
    body = {"HostConfig": {"Annotations": {"a": "b"}, "Mounts": [mount]}, "Healthcheck": {"StartInterval": 5}}
    old = _create(body, (1, 39))
    options = old.host_config.mounts[0].bind_options
    assert options is not None and not options.non_recursive and not options.create_mountpoint
    assert old.host_config.annotations == {}
    assert old.healthcheck is not None and old.healthcheck.start_interval == 0
    new = _create(body, (1, 46))
    options = new.host_config.mounts[0].bind_options
    assert options is not None and options.non_recursive and options.create_mountpoint


def test_addresses_of_the_main_network() -> None:
    """One a container before API 1.44, one an endpoint since; the two must not differ."""

    def asked(wide: str, own: str) -> dict[str, Any]:
        networking = {"EndpointsConfig": {"bridge": {"MacAddress": own}}}
        return {"Image": "busybox", "MacAddress": wide, "NetworkingConfig": networking}

    old = _create(asked("02:00:00:00:00:01", "02:00:00:00:00:02"), (1, 43))
    assert old.networking_config.endpoints_config["bridge"].mac_address == ""
    same = _create(asked("02:00:00:00:00:01", "02:00:00:00:00:01"), (1, 51))
    assert same.networking_config.endpoints_config["bridge"].mac_address == "02:00:00:00:00:01"
    with pytest.raises(InvalidArgumentError, match="must match the endpoint-specific MAC address"):
        _create(asked("02:00:00:00:00:01", "02:00:00:00:00:02"), (1, 51))


@pytest.mark.parametrize(("version", "bindings"), [((1, 52), 1), ((1, 53), 0)])
def test_ports_without_a_binding(version: tuple[int, int], bindings: int) -> None:
    """An empty list meant any port until API 1.53, and none since."""
    request = _create({"Image": "busybox", "HostConfig": {"PortBindings": {"80/tcp": []}}}, version)
    assert len(request.host_config.port_bindings["80/tcp"] or []) == bindings
