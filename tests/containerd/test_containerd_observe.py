# SPDX-License-Identifier: Apache-2.0
"""The metrics endpoint, the debug socket, and the configuration file that asks for them."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import images
from support.containerd import Daemon

from orlop.api import cgroup_metrics_v1_pb2 as v1
from orlop.api import cgroup_metrics_v2_pb2 as v2
from orlop.api.events_pb2 import TaskOOM
from orlop.containerd import config, config_file
from orlop.containerd.client import Client, typeurl
from orlop.containerd.observe.cgroup_table import V1, V2, Repeated
from orlop.containerd.observe.containers import ContainerCollector
from orlop.errdefs import InvalidArgumentError

IMAGE = "docker.io/library/busybox:latest"

Samples = dict[str, list[tuple[dict[str, str], float]]]


@pytest.fixture(scope="module")
def observed() -> Iterator[tuple[Daemon, int]]:
    """A daemon that serves metrics and the debug socket, and the port of the metrics."""
    daemon = Daemon("orlop")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = f"""version = 3
        [metrics]
          address = "127.0.0.1:{port}"
          grpc_histogram = true
        [debug]
          address = "{daemon.base}/debug.sock"
          format = "json"
    """
    Path(daemon.base, "config.toml").write_text(text)
    daemon.start("-c", f"{daemon.base}/config.toml")
    daemon.ctr("images", "import", str(images.archive("busybox"))).ok()
    yield daemon, port
    assert daemon.process is not None
    daemon.stop()
    assert not os.path.exists(f"{daemon.base}/debug.sock")
    daemon.remove()


def scrape(port: int) -> Samples:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/v1/metrics")
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert (answer.status, (answer.getheader("Content-Type") or "").split(";")[0]) == (200, "text/plain")
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


@pytest.mark.root
def test_metrics(observed: tuple[Daemon, int]) -> None:
    daemon, port = observed
    daemon.ctr("run", "-d", "--null-io", IMAGE, "c", "sleep", "100").ok()
    daemon.ctr("containers", "info", "none")
    found = scrape(port)
    own = {"container_id": "c", "namespace": daemon.namespace}
    for name in (
        "container_pids_current",
        "container_memory_usage_usage_bytes",
        "container_cpu_total_nanoseconds",
    ):
        ((labels, value),) = found[name]
        assert labels == own
        assert value > 0
    get = {
        "grpc_type": "unary",
        "grpc_service": "containerd.services.containers.v1.Containers",
        "grpc_method": "Get",
    }
    handled = {
        labels["grpc_code"]: value
        for labels, value in found["grpc_server_handled_total"]
        if get.items() <= labels.items()
    }
    assert handled["NotFound"] == 1
    assert handled["OK"] >= 1
    assert (get, handled["OK"] + 1) in found["grpc_server_started_total"]
    assert (get, handled["OK"] + 1) in found["grpc_server_handling_seconds_count"]
    sent = {labels["grpc_method"]: value for labels, value in found["grpc_server_msg_sent_total"]}
    assert sent["Write"] > 3
    assert found["containerd_build_info_total"][0][1] == 1
    assert found["process_resident_memory_bytes"][0][1] > 1e6
    assert "container_memory_oom_total" not in found
    daemon.ctr("tasks", "rm", "-f", "c")
    daemon.ctr("containers", "rm", "c").ok()
    found = scrape(port)
    assert "container_pids_current" not in found
    assert found["containerd_gc_collections_total"][0][1] >= 1
    assert found["containerd_gc_gc_seconds_count"][0][1] >= 1


@pytest.mark.root
async def test_memory_limits_met(observed: tuple[Daemon, int]) -> None:
    daemon, port = observed
    async with Client(daemon.address, daemon.namespace) as client:
        for _ in range(2):
            await client.events.publish("/tasks/oom", typeurl.pack(TaskOOM(container_id="c")))
    own = {"container_id": "c", "namespace": daemon.namespace}
    assert scrape(port)["container_memory_oom_total"] == [(own, 2.0)]


def ask(daemon: Daemon, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("debug")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(f"{daemon.base}/debug.sock")
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


@pytest.mark.root
def test_debug_socket(observed: tuple[Daemon, int]) -> None:
    daemon, _ = observed
    assert stat.S_IMODE(os.stat(f"{daemon.base}/debug.sock").st_mode) == 0o600
    status, text = ask(daemon, "/debug/vars")
    assert status == 200
    assert "--root" in json.loads(text)["cmdline"]
    assert "MainThread" in ask(daemon, "/debug/pprof/goroutine?debug=2")[1]
    assert (
        "builtins.dict" in ask(daemon, "/debug/pprof/heap")[1] or "function" in ask(daemon, "/debug/pprof/heap")[1]
    )
    assert ask(daemon, "/debug/pprof/profile")[0] == 501
    assert ask(daemon, "/debug/pprof/cmdline")[1].endswith("config.toml")
    assert ask(daemon, "/none")[0] == 404


@pytest.mark.root
def test_json_log(observed: tuple[Daemon, int]) -> None:
    daemon, _ = observed
    lines = [json.loads(line) for line in daemon.log().splitlines() if "successfully booted" in line]
    assert (lines[0]["level"], lines[0]["module"]) == ("info", "containerd")


@pytest.mark.root
def test_taken_address() -> None:
    daemon = Daemon("orlop")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        Path(daemon.base, "config.toml").write_text(f"version = 3\n[metrics]\naddress = '{address}'\n")
        with pytest.raises(AssertionError, match=f"metrics.address {address}"):
            daemon.start("-c", f"{daemon.base}/config.toml")
    assert daemon.process is not None
    assert daemon.process.wait(10) == 1
    daemon.process = None
    daemon.remove()


@pytest.mark.parametrize(("message", "table"), [(v1.Metrics, V1), (v2.Metrics, V2)], ids=["v1", "v2"])
def test_every_field_of_the_table(message: type[v1.Metrics | v2.Metrics], table: object) -> None:
    """Each names a field that the message has: with every field set, every metric has a value."""
    stats = message()
    fill(stats)
    collector = ContainerCollector()
    collector.samples = [("c", "n", typeurl.pack(stats))]
    families = {family.name: family for family in collector.collect()}
    assert set(families) == {f"container_{entry.name}" for entry in table}  # type: ignore[attr-defined]
    for entry in table:  # type: ignore[attr-defined]
        (sample,) = families[f"container_{entry.name}"].samples
        assert (sample.labels["container_id"], sample.labels["namespace"]) == ("c", "n")
        if isinstance(entry, Repeated):
            assert {label for label, _ in entry.labels} < set(sample.labels)


def fill(message: object) -> None:
    for field in message.DESCRIPTOR.fields:  # type: ignore[attr-defined]
        value = getattr(message, field.name)
        if field.message_type is not None:
            if field.is_repeated:
                fill(value.add())
            else:
                value.SetInParent()
                fill(value)
        elif field.is_repeated:
            value.append(7)
        else:
            setattr(message, field.name, "x" if field.cpp_type == field.CPPTYPE_STRING else 7)


# The file


def test_all_keys_of_the_file(tmp_path: Path) -> None:
    """What is dumped is read again, and every key that is written is one that is read."""
    made = config.Config(
        debug_address="/run/x/d.sock",
        metrics_address="127.0.0.1:1",
        grpc_histogram=True,
        format="json",
        gc_pause_threshold=0.1,
        gc_schedule_delay=2.0,
        differs=("a", "walking"),
        shim_env=("A=b",),
        disabled_plugins=("x",),
        required_plugins=("y",),
        proxy_plugins=(config.ProxyPlugin("p", "snapshot", "/run/p.sock", {"root": "/p"}, ("rebase",)),),
        stream_processors=(config.StreamProcessor("s", ("a/b",), "c/d", "/bin/cat", ("-u",), ("X=y",)),),
    )
    path = tmp_path / "c.toml"
    path.write_text(config_file.dump(made))
    again = config.load(str(path), {})
    assert again == made._replace(ttrpc_address=made.ttrpc, shim_socket_dir=made.socket_dir, opt=made.opt_dir)
    assert config_file.dump(again) == path.read_text()


@pytest.mark.parametrize("version", [2, 3, 4])
def test_places_of_version_4(tmp_path: Path, version: int) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        f"""version = {version}
        [plugins.'io.containerd.server.v1.grpc']
          address = "/run/x/c.sock"
        [plugins.'io.containerd.server.v1.metrics']
          address = "127.0.0.1:2"
        [plugins.'io.containerd.metrics.v1.grpc-prometheus']
          grpc_histogram = true
        """
    )
    made = config.load(str(path), {})
    assert (made.address, made.metrics_address, made.grpc_histogram) == ("/run/x/c.sock", "127.0.0.1:2", True)


def test_imports(tmp_path: Path) -> None:
    main, conf = tmp_path / "c.toml", tmp_path / "conf.d"
    conf.mkdir()
    main.write_text(
        "version = 3\nimports = ['conf.d/*.toml']\noom_score = 1\ndisabled_plugins = ['a']\n[grpc]\ngid = 5"
    )
    (conf / "1.toml").write_text("version = 3\noom_score = 2\ndisabled_plugins = ['b']\n[grpc]\nuid = 6")
    (conf / "2.toml").write_text("version = 3\noom_score = 3\nimports = ['../c.toml']")
    made = config.load(str(main), {})
    assert (made.oom_score, made.gid, made.uid, made.disabled_plugins) == (3, 5, 6, ("a", "b"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[metrics]\ngrpc_histogram = 'yes'", "grpc_histogram: expected true or false"),
        ("[debug]\naddress = 'here'", "debug_address: expected an absolute path"),
        ("[debug]\nformat = 'xml'", "debug.format"),
        ("[proxy_plugins.p]\ntype = 'snapshot'", "proxy_plugins.p.address must be set"),
        ("[proxy_plugins.p]\ntype = 'x'\naddress = '/x'", "proxy_plugins.p.type: expected one of snapshot"),
        ("[proxy_plugins.p]\ntype = 'diff'\naddress = 'x'", "proxy_plugins.p.address: expected a socket"),
        ("[proxy_plugins]\np = 1", "proxy_plugins: expected tables"),
        ("[stream_processors.s]\naccepts = 'a'\nreturns = 'b'\npath = 'c'", "accepts: expected strings"),
        ("[plugins.'io.containerd.gc.v1.scheduler']\npause_threshold = 0.9", "pause_threshold: expected a share"),
        ("[plugins.'io.containerd.gc.v1.scheduler']\nschedule_delay = 3", "schedule_delay: expected a duration"),
        ("[plugins.'io.containerd.transfer.v1.local']\nmax_concurrent_downloads = 0", "max_concurrent_downloads"),
        ("imports = 'x'", "imports: expected strings"),
    ],
)
def test_bad_keys(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f"version = 3\n{text}\n")
    with pytest.raises(InvalidArgumentError, match=complaint):
        config.load(str(path), {})
