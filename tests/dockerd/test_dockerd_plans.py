# SPDX-License-Identifier: Apache-2.0
"""The pure parts of dockerd's core: settings, filters, times, names, streams, policies, errors, logs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from orlop.dockerd import timestamps
from orlop.dockerd.config import Config
from orlop.dockerd.config_file import load
from orlop.dockerd.containers import restart_policy
from orlop.dockerd.containers.escape import EscapeFilter, parse_keys
from orlop.dockerd.containers.exec_process import exec_process
from orlop.dockerd.containers.health import next_status
from orlop.dockerd.containers.list import status_text
from orlop.dockerd.containers.log_files import LogReader
from orlop.dockerd.containers.log_writer import LogWriter
from orlop.dockerd.containers.merge import merge
from orlop.dockerd.containers.metrics import parse_net_dev, parse_system_cpu
from orlop.dockerd.containers.model import ContainerRecord, ExecRecord, Health, HealthResult, State
from orlop.dockerd.containers.names import check_name, generate_id, generate_name
from orlop.dockerd.containers.signals import parse_signal
from orlop.dockerd.containers.start_errors import classify
from orlop.dockerd.containers.stdio import Stdio, container_stdio
from orlop.dockerd.containers.top import parse_ps
from orlop.dockerd.events import Event, Events, matches
from orlop.dockerd.filters import Filters
from orlop.dockerd.flags import parse_flags
from orlop.dockerd.logging.forms import JSON, LOCAL, Form
from orlop.dockerd.logging.options import Rotation, check_log_config
from orlop.dockerd.logging.place import Place, place
from orlop.engine.durations import human_duration
from orlop.engine.types import ContainerConfig, HealthConfig, HostConfig, LogConfig, RestartPolicy
from orlop.errdefs import InternalError, InvalidArgumentError, UnavailableError
from orlop.oci.image import ImageConfig
from orlop.oci.runtime import Box, Capabilities, Process, User

SECOND = timestamps.SECOND


# -- settings


def settings(tmp_path: Path, content: object = None, *flags: str) -> Config:
    file = tmp_path / "daemon.json"
    if content is not None:
        raw = content if isinstance(content, str | bytes) else json.dumps(content)
        file.write_bytes(raw.encode() if isinstance(raw, str) else raw)
    options = ["--config-file", str(file)] if content is not None else []
    return load(parse_flags([*options, *flags]))


def test_defaults_and_flags(tmp_path: Path) -> None:
    config = settings(tmp_path, {})
    assert (config.data_root, config.containerd_namespace, config.shm_size) == ("/var/lib/orlop", "moby", 64 << 20)
    flags = ["-H", "unix:///a", "-H", "fd://", "-D", "--live-restore=false", "--log-opt", "max-size=1m"]
    flags += [
        "--add-runtime",
        "crun=/usr/bin/crun",
        "--default-ulimit",
        "nofile=10:20",
        "--default-shm-size",
        "1g",
    ]
    config = settings(tmp_path, None, *flags)
    assert config.hosts == ["unix:///a", "fd://"]
    assert (config.debug, config.live_restore) == (True, False)
    assert config.log_opts == {"max-size": "1m"}
    assert config.runtimes["crun"].path == "/usr/bin/crun"
    assert (config.default_ulimits["nofile"].soft, config.default_ulimits["nofile"].hard) == (10, 20)
    assert config.shm_size == 1 << 30


def test_every_accepted_key_of_dockers_daemon_json(tmp_path: Path) -> None:
    accepted: dict[str, object] = {
        "bip": "10.0.0.1/24",
        "dns": ["1.1.1.1"],
        "features": {"buildkit": True},
        "metrics-addr": ":1",
    }
    accepted |= {"runtimes": {"x": {"path": "/x"}, "y": {"runtimeType": "io.containerd.runc.v2", "options": {}}}}
    accepted |= {"default-address-pools": [{"base": "10.0.0.0/8", "size": 24}], "builder": {"gc": {}}}
    config = settings(tmp_path, accepted)
    assert config.bip == "10.0.0.1/24"
    assert config.default_address_pools[0].size == 24


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"nosuch": 1}, "the following directives don't match any configuration option: nosuch"),
        ({"default-init": "x"}, "default-init"),
        ({"debug": "yes"}, "$.debug"),
        ({"mtu": "much"}, "$.mtu"),
        ("{", "invalid JSON: line 1"),
        ("[]", "invalid JSON: not an object"),
        ('{"debug":true,"debug":false}', "duplicate key debug"),
        ({"log-level": "loud"}, "invalid logging level: loud"),
        ({"data-root": "here"}, "data-root: 'here' is no absolute path"),
        ({"hosts": ["ftp://x"]}, "invalid bind address (ftp://x): unsupported proto 'ftp'"),
        ({"hosts": ["tcp://x:y"]}, "invalid bind address (tcp://x:y)"),
        ({"hosts": ["tcp://x:1/a"]}, "should not contain a path element"),
        ({"foo": {"bar": 1}}, "don't match any configuration option: bar"),
        ({"resolv-conf": "x"}, "don't match any configuration option: resolv-conf"),
        ({"swarm-raft-election-tick": 1}, "don't match any configuration option: swarm-raft-election-tick"),
        ({"containerd-plugin-namespace": "x"}, "don't match any configuration option: containerd-plugin-namesp"),
        ({"labels": ["x=1", "x=2"]}, "conflict labels for x=2 and x=1"),
        ({"max-concurrent-downloads": -1}, "invalid max concurrent downloads: -1"),
        ({"default-stop-timeout": -1}, "invalid default stop timeout: -1"),
        ({"mtu": -1}, "invalid default MTU: -1"),
        ({"dns": ["x"]}, "IP address is not correctly formatted: x"),
        ({"dns-search": ["a b"]}, "a b is not a valid domain"),
        ({"exec-opts": ["x"]}, "invalid exec-opt (x): must be formatted 'opt=value'"),
        ({"exec-opts": ["isolation=x"]}, "invalid exec-opt (isolation=x): unknown option: 'isolation'"),
        ({"default-ipc-mode": "host"}, 'IPC mode "host" is not supported as default value'),
        ({"default-cgroupns-mode": "x"}, 'invalid default cgroup namespace (x): use "host" or "private"'),
        ({"registry-mirrors": ["x"]}, 'invalid mirror: no scheme specified for "x"'),
        ({"host-gateway-ip": "1.1.1.1", "host-gateway-ips": ["1.1.1.1"]}, "must not both be specified"),
        ({"host-gateway-ips": ["1.1.1.1", "1.1.1.2"]}, "only one IPv4 host gateway"),
        ({"selinux-enabled": True}, "SELinux is not supported"),
        ({"nri-opts": {"enable": True}}, "nri-opts: there is no Node Resource Interface"),
        ({"storage-opts": ["size=1g"]}, "storage-opts: snapshotters take their options from containerd's"),
        ({"cpu-rt-period": 1}, "cpu-rt-period: the CPU time of all containers together"),
        (
            {"log-opts": {"nosuch": "1"}},
            "failed to set log opts: unknown log opt 'nosuch' for json-file log driver",
        ),
        ({"log-driver": "x", "log-opts": {"a": "b"}}, "failed to set log opts: logger: no log driver named 'x'"),
        ({"firewall-backend": "ipfw"}, 'invalid firewall-backend: allowed values are "iptables" and "nftables"'),
        ({"firewall-backend": "iptables"}, "firewall-backend: rules are made by nftables only"),
        (b"\xff\xff", "failed to decode configuration JSON at offset 0"),
        ({"labels": ["x"]}, "bad attribute format: x"),
        ({"default-shm-size": "big"}, "default-shm-size"),
        ({"min-api-version": "1.12"}, "minimum supported API version is 1.24: 1.12"),
        ({"runtimes": {"x": {"nosuch": 1}}}, "nosuch"),
    ],
)
def test_a_wrong_daemon_json_is_one_line_that_names_the_key(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(InvalidArgumentError) as failed:
        settings(tmp_path, content)
    assert words in str(failed.value)
    assert "\n" not in str(failed.value)


def test_a_setting_by_flag_and_in_the_file_is_a_conflict(tmp_path: Path) -> None:
    twice = {"debug": True, "hosts": ["fd://"], "log-opts": {"b": "2", "a": "1"}, "http-proxy": "http://u:p@x"}
    flags = ["-D", "-H", "unix:///a", "-H", "fd://", "--log-opt", "a=b", "--http-proxy", "http://y"]
    with pytest.raises(InvalidArgumentError) as failed:
        settings(tmp_path, {"proxies": {"http-proxy": twice.pop("http-proxy")}, **twice}, *flags)
    assert str(failed.value) == (
        f"unable to configure the Docker daemon with file {tmp_path}/daemon.json: the following directives are "
        "specified both as a flag and in the configuration file: "
        "debug: (from flag: true, from file: true), "
        "hosts: (from flag: [unix:///a fd://], from file: [fd://]), "
        "http-proxy: (from flag: http://y, from file: http://xxxxx:xxxxx@x), "
        "log-opts: (from flag: map[a:b], from file: map[a:1 b:2])"
    )


def test_every_key_of_the_table_is_known(tmp_path: Path) -> None:
    """All keys that dockerd 29 takes from its file, with values that are their defaults there."""
    empty: list[str] = []
    off = ("allow-direct-routing", "cri-containerd", "debug", "experimental", "init", "ip-forward-no-drop", "ipv6",
           "no-new-privileges", "raw-logs", "rootless", "selinux-enabled", "tls", "tlsverify")  # fmt: skip
    on = ("icc", "ip-forward", "ip-masq", "ip6tables", "iptables", "live-restore", "userland-proxy")
    lists = ("authorization-plugins", "cdi-spec-dirs", "default-address-pools", "dns", "dns-opts", "dns-search",
             "exec-opts", "host-gateway-ips", "hosts", "insecure-registries", "labels", "node-generic-resources",
             "registry-mirrors", "storage-opts")  # fmt: skip
    objects = ("builder", "default-network-opts", "default-ulimits", "features", "log-opts", "runtimes")
    texts = ("bip", "bip6", "bridge", "bridge-accept-fwmark", "cgroup-parent", "containerd-plugins-namespace",
             "default-gateway", "default-gateway-v6", "firewall-backend", "fixed-cidr", "fixed-cidr-v6",
             "init-path", "metrics-addr", "min-api-version", "pidfile", "seccomp-profile",
             "swarm-default-advertise-addr", "tlscacert", "tlscert", "tlskey", "userland-proxy-path",
             "userns-remap")  # fmt: skip
    numbers = {"cpu-rt-period": 0, "cpu-rt-runtime": 0, "default-stop-timeout": 10, "max-concurrent-downloads": 3,
               "max-concurrent-uploads": 5, "max-download-attempts": 5, "mtu": 1500, "shutdown-timeout": 15,
               "network-control-plane-mtu": 1500, "network-diagnostic-port": 0,
               "default-shm-size": "64MiB"}  # fmt: skip
    others = {"containerd": "/c", "containerd-namespace": "moby", "data-root": "/d", "exec-root": "/e",
              "default-cgroupns-mode": "host", "default-ipc-mode": "private", "default-runtime": "orlop",
              "group": "",
              "ip": "0.0.0.0", "log-driver": "json-file", "log-format": "text", "log-level": "info",
              "nri-opts": {"enable": False}, "storage-driver": "overlayfs",
              "proxies": {"http-proxy": "", "https-proxy": "", "no-proxy": ""}}  # fmt: skip
    content: dict[str, object] = {**numbers, **others}
    content |= dict.fromkeys(off, False) | dict.fromkeys(on, True) | dict.fromkeys(lists, empty)
    content |= {key: {} for key in objects} | dict.fromkeys(texts, "")
    assert settings(tmp_path, content).data_root == "/d"
    # "host-gateway-ip" is the old name of a key that is there; together they are refused.
    assert settings(tmp_path, {"host-gateway-ip": "1.2.3.4"}).host_gateway_ips == ["1.2.3.4"]
    assert len(content) + 1 + 2 >= 86  # the table's keys less those that are rejected there; proxies are three


def test_runtimes_of_file_and_flags_are_merged_and_proxies_nested(tmp_path: Path) -> None:
    content = {"runtimes": {"a": {"path": "/a"}}, "proxies": {"https-proxy": "http://p"}}
    config = settings(tmp_path, content, "--add-runtime", "b=/b", "--no-proxy", "x")
    assert sorted(config.runtimes) == ["a", "b"]
    assert (config.proxies.https_proxy, config.proxies.no_proxy) == ("http://p", "x")


def test_a_file_as_windows_writes_it(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        assert settings(tmp_path, '{"mtu": 1400}'.encode(encoding)).mtu == 1400
    assert settings(tmp_path, b" \n").mtu == 1500


def test_a_missing_file_is_an_error_only_when_it_was_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no such file"):
        load(parse_flags(["--config-file", str(tmp_path / "nosuch")]))


# -- filters and times


def test_filters() -> None:
    filters = Filters.parse('{"name":["^a"],"label":{"x=1":true,"y":true,"z":false}}')
    assert filters.get("label") == ["x=1", "y"]
    assert filters.matches("name", "abc")
    assert not filters.matches("name", "ba")
    assert filters.labels("label", {"x": "1", "y": ""})
    assert not filters.labels("label", {"x": "2", "y": ""})
    assert not filters.labels("label", {"x": "1"})
    with pytest.raises(InvalidArgumentError, match="invalid filter 'name'"):
        filters.validate(("label",))
    for text in ("[]", "{", '{"a":1}'):
        with pytest.raises(InvalidArgumentError):
            Filters.parse(text)
    assert Filters({"name": ["["]}).matches("name", "[")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("0", 0),
        ("1700000000", 1700000000 * SECOND),
        ("1700000000.5", 1700000000 * SECOND + SECOND // 2),
        ("1700000000.000000001", 1700000000 * SECOND + 1),
        ("2023-11-14T22:13:20Z", 1700000000 * SECOND),
        ("2023-11-14T22:13:20.123456789Z", 1700000000 * SECOND + 123456789),
        ("2023-11-14T23:13:20+01:00", 1700000000 * SECOND),
        ("2023-11-14", 1699920000 * SECOND),
    ],
)
def test_times(text: str, moment: int) -> None:
    assert timestamps.parse(text) == moment
    if moment:
        assert timestamps.parse(timestamps.rfc3339(moment)) == moment


@pytest.mark.parametrize(
    "end", ["Z", ".5Z", ".123456789Z", ".000000001Z", ".1234567891Z", "+01:00", ".25+01:00", ""]
)
def test_moments_of_logs(end: str) -> None:
    text = f"2026-11-24T13:00:00{end}"
    assert timestamps.parse_utc(text) == timestamps.parse_utc(text) == timestamps.parse(text)


@pytest.mark.parametrize(
    "wrong", ["2026-11-24T13:00:00.Z", "2026-11-24T13:00:00.1x2Z", "2026-13-24T13:00:00.5Z", "x" * 20]
)
def test_moments_of_logs_that_are_none(wrong: str) -> None:
    with pytest.raises(InvalidArgumentError):
        timestamps.parse_utc(wrong)


def test_a_log_with_lines_that_are_none() -> None:
    def line(text: bytes, time: str = "2026-11-24T13:00:00.5Z") -> bytes:
        return b'{"log":"%b\\n","stream":"stderr","time":"%b"}\n' % (text, time.encode())

    good = [line(b"one"), line(b"two")]
    bad = [b"\0\0\0\n", b"\n", b'{"log":"cut\n', line(b"x", "never"), b"[]\n"]
    moment = timestamps.parse("2026-11-24T13:00:00.5Z")
    expected = [("one\n", "stderr", moment), ("two\n", "stderr", moment)]
    for broken in ([], *([each] for each in bad), bad):
        data = b"".join([good[0], *broken, good[1]])
        assert JSON.split(data + b'{"log":"on') == (expected, len(data))


def test_times_as_text() -> None:
    assert timestamps.rfc3339(0) == "0001-01-01T00:00:00Z"
    assert timestamps.rfc3339(SECOND) == "1970-01-01T00:00:01Z"
    assert timestamps.rfc3339(SECOND + 120_000_000) == "1970-01-01T00:00:01.12Z"
    assert timestamps.rfc3339_fixed(SECOND) == "1970-01-01T00:00:01.000000000Z"
    for wrong in ("", "yesterday", "2023-13-01", "1.2.3"):
        with pytest.raises(InvalidArgumentError):
            timestamps.parse(wrong)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (180, "3 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (3 * 86400, "3 days"),
        (21 * 86400, "3 weeks"),
        (90 * 86400, "3 months"),
        (3 * 365 * 86400, "3 years"),
    ],
)
def test_durations_in_dockers_words(seconds: int, text: str) -> None:
    assert human_duration(seconds) == text


def test_status_texts() -> None:
    now = 1000 * SECOND
    assert status_text(State(), now) == "Created"
    assert status_text(State(running=True, started_at=now - 5 * SECOND), now) == "Up 5 seconds"
    sick = State(running=True, started_at=now - 5 * SECOND, health=Health(status="unhealthy"))
    assert status_text(sick, now) == "Up 5 seconds (unhealthy)"
    ended = State(started_at=1, finished_at=now - 120 * SECOND, exit_code=3)
    assert status_text(ended, now) == "Exited (3) 2 minutes ago"
    waiting = State(running=True, restarting=True, started_at=1, finished_at=now - SECOND, exit_code=1)
    assert status_text(waiting, now) == "Restarting (1) 1 second ago"


# -- names, signals, keys


def test_names() -> None:
    assert check_name("/web-1.x_y") == "web-1.x_y"
    for wrong in ("", "a", "-ab", "a b", "a/b", "ä" * 3):
        with pytest.raises(InvalidArgumentError, match="Invalid container name"):
            check_name(wrong)
    taken = {generate_name(lambda _: False) for _ in range(20)}
    assert check_name(generate_name(taken.__contains__)) not in taken
    assert len(generate_name(lambda _: True)) == 32
    assert not generate_id(lambda _: False)[:12].isdecimal()


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["0", "65", "NOSUCH", "RTMIN+31", "-9", "SIG"])
def test_wrong_signals(text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="invalid signal"):
        parse_signal(text)


def test_detach_keys() -> None:
    assert parse_keys("") == b"\x10\x11"
    assert parse_keys("ctrl-a,x,ctrl-@") == b"\x01x\x00"
    for wrong in ("ctrl-", "nosuch", "ctrl-%", "a,,b"):
        with pytest.raises(InvalidArgumentError):
            parse_keys(wrong)
    keys = EscapeFilter(b"\x10\x11")
    assert keys.feed(b"ab\x10") == b"ab"
    assert keys.feed(b"c") == b"\x10c"
    assert keys.feed(b"\x10\x10\x11rest") == b"\x10"
    assert keys.escaped


# -- configuration


def test_image_and_request_are_merged() -> None:
    image = ImageConfig(
        env=["A=image", "B=image"], cmd=["serve"], entrypoint=["/entry"], working_dir="/app", labels={"k": "image"}
    )
    merged = merge(ContainerConfig(env=["A=mine"], labels={"l": "mine"}), image)
    assert merged.env == ["A=mine", "B=image"]
    assert (merged.entrypoint, merged.cmd, merged.working_dir) == (["/entry"], ["serve"], "/app")
    assert merged.labels == {"k": "image", "l": "mine"}
    assert merge(ContainerConfig(cmd=["x"]), image).entrypoint == ["/entry"]
    own = merge(ContainerConfig(entrypoint=["/mine"]), image)
    assert (own.entrypoint, own.cmd) == (["/mine"], None)
    reset = merge(ContainerConfig(entrypoint=[""], cmd=["x"]), image)
    assert (reset.entrypoint, reset.cmd) == (None, ["x"])
    assert merge(ContainerConfig(cmd="word"), ImageConfig()).cmd == ["word"]


def record(**config: Any) -> ContainerRecord:
    host_config = HostConfig(log_config=LogConfig(type="json-file"))
    return ContainerRecord(
        id="c" * 64,
        name="n",
        created=1,
        config=ContainerConfig(**config),
        host_config=host_config,
        log_path="/d/c-json.log",
    )


_ROTATED = "max-size=100000000&max-file=5"


def streams(container: ContainerRecord, socket: str = "/r/a.sock") -> Stdio:
    return container_stdio(container, socket, place(container, Path("/d")))


def test_streams_of_our_shim() -> None:
    found = streams(record())
    assert (found.stdin, found.terminal) == ("", False)
    assert found.stdout == found.stderr == f"json-file:///d/c-json.log?{_ROTATED}&attach=%2Fr%2Fa.sock"
    assert streams(record(open_stdin=True, stdin_once=True), "/a").stdin == "attach:///a?once=1"
    container = record(open_stdin=True, stdin_once=True, tty=True)
    container.host_config.log_config.config = {"max-size": "10k", "max-file": "3"}
    found = streams(container)
    assert found.stdin == "attach:///r/a.sock", "leaving a terminal is not the end of its input"
    assert found.stdout == "json-file:///d/c-json.log?max-size=10000&max-file=3&attach=%2Fr%2Fa.sock"
    assert (found.stderr, found.terminal) == ("", True)
    container.host_config.log_config = LogConfig(type="none")
    assert streams(container).stdout == "attach:///r/a.sock"
    container.host_config.log_config = LogConfig(type="local", config={"labels": "a", "max-size": "1m"})
    container.config.labels = {"a": "b"}
    assert streams(container).stdout == (
        "local:///d/local-logs/container.log?max-size=1000000&max-file=5&compress=1&attrs=32060a0161120162"
        "&attach=%2Fr%2Fa.sock"
    )
    syslog = {"syslog-address": "udp://1.2.3.4", "cache-max-size": "1m"}
    container.host_config.log_config = LogConfig(type="syslog", config=syslog)
    query = "max-size=1000000&max-file=1000&attach=%2Fr%2Fa.sock"
    assert streams(container).stdout == f"json-file:///d/container-cached.log?{query}"
    syslog["mode"] = "non-blocking"
    assert "max-file=5&" in streams(container).stdout


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LogConfig(type="splunk"), "logger: no log driver named 'splunk' is registered"),
        (LogConfig(type="json-file", config={"mode": "fast"}), "logger: logging mode not supported: fast"),
        (LogConfig(type="local", config={"max-buffer-size": "1m"}), "only supported with 'mode=non-blocking'"),
        (LogConfig(type="local", config={"nosuch": "1"}), "unknown log opt 'nosuch' for log driver local"),
        (LogConfig(type="local", config={"max-file": "1"}), "compression cannot be enabled when max file count"),
        (
            LogConfig(type="json-file", config={"compress": "true", "max-size": "1m"}),
            "compress cannot be true when max-file",
        ),
        (LogConfig(type="json-file", config={"env-regex": "("}), "error parsing regexp"),
        (
            LogConfig(type="journald", config={"max-size": "1"}),
            "unknown log opt 'max-size' for journald log driver",
        ),
        (LogConfig(type="journald", config={"cache-disabled": "x"}), "invalid value for option cache-disabled: x"),
        (LogConfig(type="syslog", config={"syslog-address": "http://x"}), "unsupported scheme: 'http'"),
        (LogConfig(type="syslog", config={"syslog-address": "unix:///nosuch"}), "no such file or directory"),
        (LogConfig(type="syslog", config={"syslog-facility": "24"}), "invalid syslog facility"),
        (LogConfig(type="syslog", config={"syslog-format": "x"}), "Invalid syslog format"),
        (
            LogConfig(type="fluentd", config={"fluentd-address": "x/y"}),
            "invalid fluentd-address .x/y.",
        ),
        (LogConfig(type="fluentd", config={"fluentd-address": "udp://x"}), "unsupported scheme: 'udp'"),
        (LogConfig(type="fluentd", config={"fluentd-retry-wait": "1"}), 'time: invalid duration "1"'),
        (LogConfig(type="fluentd", config={"fluentd-async-reconnect-interval": "1m"}), "between 100ms and 10s"),
        (LogConfig(type="gelf"), "gelf-address is a required parameter"),
        (
            LogConfig(type="gelf", config={"gelf-address": "tcp://x"}),
            "please provide gelf-address as proto://host",
        ),
        (LogConfig(type="gelf", config={"gelf-address": "tcp://x:1", "gelf-compression-type": "zlib"}), "on UDP"),
        (LogConfig(type="gelf", config={"gelf-address": "udp://x:1", "y": "1"}), 'unknown log opt "y" for gelf'),
        (LogConfig(type="json-file", config={"nosuch": "1"}), "unknown log opt 'nosuch'"),
        (LogConfig(type="json-file", config={"max-size": "x"}), "invalid value for max-size"),
        (LogConfig(type="json-file", config={"max-file": "0"}), "max-file cannot be less than 1"),
    ],
)
def test_wrong_log_options(config: LogConfig, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        check_log_config(config)


def test_the_process_of_an_exec() -> None:
    caps = Capabilities(bounding=["CAP_KILL"], effective=["CAP_KILL"], permitted=["CAP_KILL"])
    base = Process(cwd="/app", args=["x"], env=["PATH=/bin", "A=1"], capabilities=caps, user=User(uid=0))
    extra = ExecRecord(id="e", container_id="c", args=["ls"], env=["A=2", "B=3"], tty=True, console_size=[24, 80])
    made = exec_process(base, record(), extra, User(uid=5), ("CAP_ALL",))
    assert (made.args, made.cwd, made.terminal, made.user.uid) == (["ls"], "/", True, 5)
    assert made.env == ["PATH=/bin", "A=2", "TERM=xterm", "B=3"]
    assert made.console_size == Box(height=24, width=80)
    assert made.capabilities == Capabilities(bounding=["CAP_KILL"])
    extra.privileged = True
    privileged = exec_process(base, record(), extra, User(uid=0), ("CAP_ALL",)).capabilities
    assert privileged is not None
    assert privileged.effective == ["CAP_ALL"]
    assert base.args == ["x"]


# -- policies


def test_restart_policies_that_mind_health() -> None:
    wants = restart_policy.wants_restart
    policy = RestartPolicy(name="on-failure+unhealthy", maximum_retry_count=2)
    assert wants(policy, 0, by_user=False, attempts=1, unhealthy=True)
    assert not wants(policy, 0, by_user=False, attempts=2, unhealthy=True)
    assert not wants(policy, 0, by_user=False, attempts=0)
    assert not wants(policy, 0, by_user=True, attempts=0, unhealthy=True)
    assert not wants(RestartPolicy(name="on-failure"), 0, by_user=False, attempts=0, unhealthy=True)
    assert wants(RestartPolicy(name="always+unhealthy"), 0, by_user=False, attempts=9)
    assert not restart_policy.minds_health(RestartPolicy(name="always"))


def test_restart_policies() -> None:
    wants = restart_policy.wants_restart
    always, unless = RestartPolicy(name="always"), RestartPolicy(name="unless-stopped")
    failing = RestartPolicy(name="on-failure", maximum_retry_count=2)
    assert wants(always, 0, by_user=False, attempts=99)
    assert not wants(always, 0, by_user=True, attempts=0)
    assert not wants(RestartPolicy(), 1, by_user=False, attempts=0)
    assert wants(failing, 1, by_user=False, attempts=1)
    assert not wants(failing, 1, by_user=False, attempts=2)
    assert not wants(failing, 0, by_user=False, attempts=0)
    starts = restart_policy.wants_start
    assert starts(always, 0, by_user=True, was_running=False, attempts=0)
    assert not starts(unless, 0, by_user=True, was_running=False, attempts=0)
    assert starts(unless, 0, by_user=False, was_running=False, attempts=0)
    assert not starts(failing, 0, by_user=False, was_running=True, attempts=0)


def test_the_delay_doubles_and_starts_over_after_a_good_run() -> None:
    delays, delay = [], 0.0
    for _ in range(12):
        delay = restart_policy.next_delay(delay, ran=0.1)
        delays.append(round(delay, 1))
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == 60.0
    assert restart_policy.next_delay(30.0, ran=11) == 0.1


def test_health_by_results() -> None:
    config = HealthConfig(test=["CMD", "x"], retries=2)
    health = Health()

    def result(code: int, *, starting: bool = False) -> bool:
        found = HealthResult(start=0, end=1, exit_code=code, output="")
        return next_status(health, found, config, in_start_period=starting)

    assert not result(1, starting=True)
    assert health.failing_streak == 0
    assert not result(1)
    assert result(1)
    assert (health.status, health.failing_streak) == ("unhealthy", 2)
    assert result(0)
    assert (health.status, health.failing_streak) == ("healthy", 0)
    assert not result(1)


@pytest.mark.parametrize(
    ("text", "code", "kind"),
    [
        ('exec: "x": executable file not found in $PATH', 127, InvalidArgumentError),
        ("stat /x: no such file or directory", 127, InvalidArgumentError),
        ('exec: "/x": permission denied', 126, InvalidArgumentError),
        ('exec: "/etc": is a directory', 126, InvalidArgumentError),
        ("mount /a onto /b: not a directory", 127, InvalidArgumentError),
        ("something else", 128, InternalError),
    ],
)
def test_errors_of_a_start(text: str, code: int, kind: type[Exception]) -> None:
    found, error = classify(InternalError(text))
    assert (found, type(error)) == (code, kind)
    assert str(error).startswith(text)
    assert isinstance(classify(UnavailableError("no such file or directory"))[1], UnavailableError)


# -- events


def event(kind: str, action: str, id: str = "i" * 64, **attributes: str) -> Event:
    return Event(kind, action, id, attributes, 5 * SECOND)


def test_event_filters() -> None:
    died = event("container", "die", name="web", image="busybox:1", role="x")

    def passes(found: Event, **wanted: str) -> bool:
        return matches(found, Filters({name: [value] for name, value in wanted.items()}))

    assert passes(died, container="web")
    assert passes(died, container="iiii")
    assert not passes(died, container="other")
    assert passes(died, event="die", type="container", label="role=x")
    assert not passes(died, event="start")
    assert passes(died, image="busybox")
    assert passes(event("container", "exec_create: ls -l"), event="exec_create")
    assert passes(event("network", "connect", container="i" * 64), container="iiii")
    assert not passes(event("volume", "mount"), container="iiii")


def test_event_forms() -> None:
    found = event("container", "die", image="busybox").message(legacy=True)
    assert (found["status"], found["id"], found["from"]) == ("die", "i" * 64, "busybox")
    assert (found["time"], found["timeNano"], found["scope"]) == (5, 5 * SECOND, "local")
    assert "status" not in event("container", "die").message(legacy=False)


async def test_a_subscription_has_the_past_and_what_comes() -> None:
    events = Events()
    events.publish("container", "create", "1")
    subscription = events.subscribe(0, None, Filters())
    events.publish("container", "start", "1")
    found = aiter(subscription)
    assert [(await anext(found)).action, (await anext(found)).action] == ["create", "start"]
    subscription.close()
    assert events.listeners == 0


# -- logs


WITHOUT = Rotation(0, 1, False)


def on_disk(path: Path, rotation: Rotation = WITHOUT, form: Form = JSON) -> Place:
    return Place(str(path), form, "json-file" if form is JSON else "local", rotation, "")


def read(path: Path, tail: int = -1, form: Form = JSON) -> list[str]:
    reader = LogReader(str(path), form)
    reader.open(tail)
    try:
        return [entry.log for entry in reader.read()]
    finally:
        reader.close()


@pytest.mark.parametrize("form", [JSON, LOCAL])
def test_reading_a_rotated_log(tmp_path: Path, form: Form) -> None:
    path = tmp_path / "x.log"
    writer = LogWriter(on_disk(path, Rotation(600, 100, False), form))
    for number in range(50):
        writer.write("stdout", f"line {number}\n".encode())
    writer.close()
    assert len(os.listdir(tmp_path)) > 2
    lines = [f"line {number}\n" for number in range(50)]
    assert read(path, form=form) == lines
    for tail in (0, 1, 7, 49, 50, 51, 500):
        assert read(path, tail, form) == lines[len(lines) - min(tail, 50) :]


def test_a_cut_line_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_text('{"log":"whole\\n","stream":"stdout","time":"2023-01-01T00:00:00Z"}\nnonsense\n{"log":"cu')
    assert read(path) == ["whole\n"]
    assert read(tmp_path / "nosuch") == []


def test_long_and_partial_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    writer = LogWriter(on_disk(path))
    writer.write("stdout", b"x" * 40000 + b"\nno newline")
    writer.flush("stdout")
    writer.close()
    assert "".join(read(path)) == "x" * 40000 + "\nno newline"


# -- what other programs print


def test_ps() -> None:
    output = "UID   PID CMD\nroot    7 sh -c  'a b'\nroot   70 other\n"
    assert parse_ps(output, {7}) == {"Titles": ["UID", "PID", "CMD"], "Processes": [["root", "7", "sh -c  'a b'"]]}
    with pytest.raises(InternalError, match="PID"):
        parse_ps("UID CMD\n", set())


def test_proc_files() -> None:
    text = "Inter-|\n face |\n    lo: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n"
    assert parse_net_dev(text) == {
        "eth0": {
            "rx_bytes": 10,
            "rx_packets": 2,
            "rx_errors": 3,
            "rx_dropped": 4,
            "tx_bytes": 50,
            "tx_packets": 6,
            "tx_errors": 7,
            "tx_dropped": 8,
        }
    }
    assert parse_net_dev("a\nb\n") is None
    assert parse_system_cpu("cpu  1 2 3 4 5 6 7 8 9\ncpu0 1\ncpu1 1\nintr 9\n", 100) == (28 * 10_000_000, 2)
