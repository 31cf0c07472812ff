# SPDX-License-Identifier: Apache-2.0
"""Volumes of a plugin, through the docker command: their life, failures of the plugin, a daemon that dies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.plugin import Plugin
from support.stack import Stack

from orlop.dockerd.plugins.client import Plugins
from orlop.dockerd.plugins.discovery import Discovery
from orlop.errdefs import InvalidArgumentError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        running.load("busybox")
        yield running


@pytest.fixture
def plugin(stack: Stack) -> Iterator[Plugin]:
    serving = Plugin(Path(stack.exec_root, "plugins", "shelf.sock"), Path(stack.base, "shelf"))
    yield serving
    serving.failure = ""
    stack.docker("rm", "-f", *stack.docker("ps", "-aq").out.split())
    stack.docker("volume", "rm", "-f", *stack.docker("volume", "ls", "-q").out.split())
    serving.close()


def test_life_of_a_volume(stack: Stack, plugin: Plugin) -> None:
    made = stack.docker("volume", "create", "-d", "shelf", "-o", "size=1", "--label", "a=b", "books")
    assert made.ok() == "books\n"
    assert plugin.volumes == {"books": {"size": "1"}}
    shown = json.loads(stack.docker("volume", "inspect", "books").ok())[0]
    assert (shown["Driver"], shown["Scope"], shown["Status"]) == ("shelf", "global", {"colour": "blue"})
    assert (shown["Labels"], shown["Options"]) == ({"a": "b"}, {"size": "1"})
    assert shown["Mountpoint"] == f"{stack.base}/shelf/books"
    plugin.calls.clear()
    stack.docker("run", "--name", "one", "-v", "books:/b", "busybox", "sh", "-c", "echo read me > /b/f").ok()
    assert Path(shown["Mountpoint"], "f").read_text() == "read me\n"
    (mounted,) = [given for method, given in plugin.calls if method == "VolumeDriver.Mount"]
    (unmounted,) = [given for method, given in plugin.calls if method == "VolumeDriver.Unmount"]
    assert mounted == unmounted
    assert mounted["Name"] == "books"
    mounts = json.loads(stack.docker("inspect", "-f", "{{json .Mounts}}", "one").ok())
    assert (mounts[0]["Driver"], mounts[0]["Source"]) == ("shelf", shown["Mountpoint"])
    assert stack.docker("cp", "one:/b/f", "-").ok()
    busy = stack.docker("volume", "rm", "books")
    assert "volume is in use" in busy.err
    stack.docker("rm", "one").ok()
    stack.docker("volume", "rm", "books").ok()
    assert plugin.volumes == {}
    assert stack.docker("volume", "ls", "-q").out == ""
    assert "shelf" in stack.docker("info", "-f", "{{.Plugins.Volume}}").out


def test_anonymous_named_and_foreign_volumes(stack: Stack, plugin: Plugin) -> None:
    plugin._create("elsewhere", {})
    assert stack.docker("volume", "ls", "--format", "{{.Driver}} {{.Name}}").out == "shelf elsewhere\n"
    run = ["run", "--rm", "--volume-driver", "shelf"]
    stack.docker(*run, "-v", "elsewhere:/a", "-v", "/b", "busybox", "touch", "/a/x", "/b/y").ok()
    assert Path(stack.base, "shelf/elsewhere/x").exists()
    assert list(plugin.volumes) == ["elsewhere"], "what was anonymous went with the container"
    conflict = stack.docker("volume", "create", "elsewhere")
    assert "already exists with the shelf driver" in conflict.err


def test_a_plugin_that_fails_or_is_away(stack: Stack, plugin: Plugin) -> None:
    stack.docker("volume", "create", "-d", "shelf", "books").ok()
    plugin.failure = "out of shelves"
    failed = stack.docker("volume", "create", "-d", "shelf", "more")
    assert "create more: out of shelves" in failed.err
    failed = stack.docker("run", "--rm", "-v", "books:/b", "busybox", "true")
    assert "error while mounting volume 'books': out of shelves" in failed.err
    assert stack.docker("ps", "-aq").out == ""
    unknown = stack.docker("volume", "create", "-d", "nosuch", "x")
    assert 'error looking up volume plugin nosuch: plugin "nosuch" not found' in unknown.err
    plugin.failure = ""
    plugin.close()
    try:
        assert stack.docker("volume", "ls", "-q").out == "books\n"
        away = stack.docker("run", "--rm", "-v", "books:/b", "busybox", "true")
        assert 'plugin "shelf" not found' in away.err
    finally:
        plugin.__init__(plugin._socket, plugin._directory)  # type: ignore[misc]
        plugin.volumes["books"] = {}
    stack.docker("run", "--rm", "-v", "books:/b", "busybox", "true").ok()


@pytest.mark.long
def test_volumes_are_given_back_after_the_daemon_died(stack: Stack, plugin: Plugin) -> None:
    stack.docker(
        "run", "-d", "--name", "long", "--volume-driver", "shelf", "-v", "vv:/v", "busybox", "sleep", "60"
    ).ok()
    stack.kill()
    stack.start()
    plugin.calls.clear()
    stack.docker("rm", "-f", "long").ok()
    assert plugin.methods().count("Unmount") == 1
    stack.docker("volume", "rm", "vv").ok()


def test_where_plugins_are_looked_for(tmp_path: Path) -> None:
    sockets, specs = tmp_path / "run", tmp_path / "etc"
    specs.mkdir()
    (specs / "near.spec").write_text(f"unix://{sockets}/other.sock\n")
    (specs / "far.json").write_text('{"Name": "x", "Addr": "https://h:1", "TLSConfig": {"CAFile": "/ca"}}')
    (specs / "bad.spec").write_text("nowhere")
    (specs / "worse.json").write_text("{")
    discovery = Discovery([str(sockets), "/nosuch"], [str(specs), "/nosuch"])
    assert discovery.find("near").address == f"unix://{sockets}/other.sock"
    found = discovery.find("far")
    assert found.address == "https://h:1"
    assert found.tls is not None
    assert found.tls.ca_file == "/ca"
    for name in ("bad", "worse"):
        with pytest.raises(InvalidArgumentError, match=name):
            discovery.find(name)
    for name in ("nosuch", "../etc/near", "", ".."):
        with pytest.raises(NotFoundError, match="not found"):
            discovery.find(name)
    with pytest.raises(UnavailableError, match="near"):
        Plugins(discovery).get("near", "VolumeDriver")
    nested = Plugin(sockets / "deep" / "deep.sock", tmp_path / "v", ("Other",))
    try:
        assert discovery.names() == ["bad", "deep", "far", "near", "worse"]
        with pytest.raises(NotFoundError, match="does not implement"):
            Plugins(discovery).get("deep", "VolumeDriver")
        assert Plugins(discovery).get("deep", "Other").name == "deep"
    finally:
        nested.close()
