# SPDX-License-Identifier: Apache-2.0
"""Where `cp` puts what, whose credentials are used, and how lists of space and history read."""

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from orlop.cli.commands import df, prune, registries
from orlop.cli.commands.cp import _split_argument
from orlop.cli.errors import ExitError
from orlop.cli.local_paths import Placement, Side, absolute, local_destination, local_source, place, rebase_name
from orlop.cli.output import check_path, write_archive
from orlop.cli.platforms import as_json
from orlop.cli.pulling import split_tag
from orlop.engine import credentials
from orlop.errdefs import InvalidArgumentError, UnavailableError


@pytest.mark.parametrize(
    ("text", "container", "path"),
    [
        ("box:/etc", "box", "/etc"),
        ("box:", "box", ""),
        ("/local:file", "", "/local:file"),
        ("./local:file", "", "./local:file"),
        ("local", "", "local"),
        ("-", "", "-"),
        ("a/b:c", "a/b", "c"),
    ],
)
def test_arguments_of_cp(text: str, container: str, path: str) -> None:
    assert _split_argument(text) == (container, path)


FILE, TREE = Side("/src/name", True, False), Side("/src/name", True, True)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (FILE, Side("/there", True, True), Placement("/there", "name")),
        (FILE, Side("/there", True, False), Placement("/", "there")),
        (FILE, Side("/no/new"), Placement("/no", "new")),
        (TREE, Side("/there", True, True), Placement("/there", "name")),
        (TREE, Side("/no/new"), Placement("/no", "new")),
        (TREE, Side("/no/new/"), Placement("/no", "new")),
        (Side("/src/.", True, True), Side("/there", True, True), Placement("/there", ".")),
        (Side("/src/.", True, True), Side("/new"), Placement("/", "new")),
        (Side("/src/target", True, False, "link"), Side("/there", True, True), Placement("/there", "link")),
        (TREE, Side("/there", True, False), "cannot copy directory"),
        (FILE, Side("/new/"), "no such directory"),
        (FILE, Side("/new/."), "no such directory"),
    ],
)
def test_placement(source: Side, target: Side, expected: Placement | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(ExitError, match=expected):
            place(source, target)
    else:
        assert place(source, target) == expected


def test_local_paths(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("dir")
    (tmp_path / "dangling").symlink_to("dir/new")
    base = str(tmp_path)
    assert local_source(f"{base}/link", False) == Side(f"{base}/link", True, False)
    assert local_source(f"{base}/link", True) == Side(f"{base}/dir", True, True, "link")
    assert local_source(f"{base}/link/", False) == Side(f"{base}/dir/", True, True, "link")
    assert local_source(f"{base}/link/.", False) == Side(f"{base}/dir/.", True, True)
    assert local_destination(f"{base}/link") == Side(f"{base}/dir", True, True)
    assert local_destination(f"{base}/dangling") == Side(f"{base}/dir/new")
    assert local_destination(f"{base}/new") == Side(f"{base}/new")
    for path in ("nosuch", "file/", "nosuch/x"):
        with pytest.raises(ExitError):
            local_source(f"{base}/{path}", False)
    with pytest.raises(ExitError, match="no such file or directory"):
        local_destination(f"{base}/no/such")
    with pytest.raises(ExitError, match="not a directory"):
        local_destination(f"{base}/file/new")
    os.symlink("loop", f"{base}/loop")
    with pytest.raises(ExitError, match="too many symlinks"):
        local_destination(f"{base}/loop")
    assert absolute("/a/../b/.") == "/b/."
    assert rebase_name("/a/link/", "/b/target") == ("/b/target/", "link")


def test_archives_appear_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.tar"
    path.write_bytes(b"old")

    def broken():  # type: ignore[no-untyped-def]
        yield b"half"
        raise ExitError("the daemon is gone")

    with pytest.raises(ExitError, match="gone"):
        write_archive(broken(), str(path))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["out.tar"]
    write_archive([b"a", b"b"], str(path))
    assert path.read_bytes() == b"ab"
    with pytest.raises(ExitError, match=r"invalid output path: stat .*: no such file"):
        check_path(str(tmp_path / "no" / "out.tar"), "failed to save image")
    with pytest.raises(ExitError, match="got a device"):
        check_path("/dev/null", "failed to save image")


def test_references_and_platforms() -> None:
    assert split_tag("a:5000/b") == ("a:5000/b", "")
    assert split_tag("a:5000/b:c") == ("a:5000/b", "c")
    with pytest.raises(ExitError, match="digest"):
        split_tag("a@sha256:00")
    assert json.loads(as_json("linux/arm64/v8") or "") == {"os": "linux", "architecture": "arm64", "variant": "v8"}
    assert as_json("") is None
    with pytest.raises(ExitError, match="invalid platform"):
        as_json("a/b/c/d")


class TestCredentials:
    """config.json and helper programs."""

    @pytest.fixture(autouse=True)
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "client"))
        return tmp_path / "client"

    def test_the_file(self, directory: Path) -> None:
        assert credentials.registry_auth("localhost:5000/x") == {}
        assert credentials.store("localhost:5000", "user", "pass:word")
        assert stat.S_IMODE((directory / "config.json").stat().st_mode) == 0o600
        (header,) = credentials.registry_auth("localhost:5000/x").values()
        assert json.loads(base64.urlsafe_b64decode(header)) == {
            "username": "user",
            "password": "pass:word",
            "serveraddress": "localhost:5000",
        }
        assert credentials.registry_auth("other.example/x") == {}
        config = json.loads((directory / "config.json").read_text())
        config["psFormat"] = "kept"
        (directory / "config.json").write_text(json.dumps(config))
        assert credentials.erase("localhost:5000") and not credentials.erase("localhost:5000")
        assert json.loads((directory / "config.json").read_text()) == {"auths": {}, "psFormat": "kept"}

    def test_tokens(self) -> None:
        credentials.store("r.example", "user", "", "the-token")
        assert credentials.lookup("r.example") == {"identitytoken": "the-token", "serveraddress": "r.example"}

    def test_helpers(self, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        helper = tmp_path / "docker-credential-fake"
        helper.write_text(
            f'#!/bin/sh\nread -r input; echo "$1 $input" >>{tmp_path}/calls\n'
            'case "$1 $input" in\n'
            '"get r.example") echo \'{"ServerURL":"r.example","Username":"u","Secret":"s"}\';;\n'
            "store*) ;;\n*) echo credentials not found; exit 1;; esac\n"
        )
        helper.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        directory.mkdir()
        (directory / "config.json").write_text(
            json.dumps({"credHelpers": {"r.example": "fake", "o.example": "fake"}})
        )
        found = credentials.lookup("r.example")
        assert found == {"username": "u", "password": "s", "serveraddress": "r.example"}
        assert credentials.lookup("o.example") is None
        assert not credentials.store("r.example", "me", "secret")
        stored = json.loads((tmp_path / "calls").read_text().splitlines()[-1].partition(" ")[2])
        assert stored == {"ServerURL": "r.example", "Username": "me", "Secret": "secret"}
        assert "secret" not in (directory / "config.json").read_text()

    def test_a_helper_that_is_missing_sends_nothing(self, directory: Path, tmp_path: Path) -> None:
        """CVE-2021-41092: not what the file has for another registry, and for this one neither."""
        directory.mkdir()
        auths = {name: {"auth": "dTpw"} for name in (credentials.HUB, "r.example")}
        (directory / "config.json").write_text(json.dumps({"credsStore": f"none-{tmp_path.name}", "auths": auths}))
        for name in ("r.example/x", "busybox", "o.example/x"):
            with pytest.raises(UnavailableError, match="docker-credential-none-"):
                credentials.registry_auth(name)
        (directory / "config.json").write_text(json.dumps({"credHelpers": {"o.example": "none"}, "auths": auths}))
        with pytest.raises(UnavailableError):
            credentials.registry_auth("o.example/x")
        assert credentials.registry_auth("p.example/x") == {}

    def test_a_broken_file_is_told(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "config.json").write_text("{")
        with pytest.raises(InvalidArgumentError, match="Error loading config file"):
            credentials.registry_auth("x")

    @pytest.mark.parametrize(
        ("name", "key"),
        [
            ("busybox", credentials.HUB),
            ("user/x", credentials.HUB),
            ("docker.io/x", credentials.HUB),
            ("localhost/x", "localhost"),
            ("h:1/x", "h:1"),
        ],
    )
    def test_registries_of_names(self, name: str, key: str) -> None:
        assert credentials.registry_of(name) == key

    def test_keys_of_servers(self) -> None:
        assert registries._key("") == registries._key("docker.io") == credentials.HUB
        assert registries._key("https://r.example/v2/") == "r.example"


def test_disk_usage_rows() -> None:
    images = [
        {"Containers": 1, "Size": 300, "SharedSize": 100},
        {"Containers": 0, "Size": 600, "SharedSize": 100},
    ]
    row = df._images({"Images": images, "LayersSize": 800})
    assert (row["TotalCount"], row["Active"], row["Size"], row["Reclaimable"]) == ("2", "1", "800B", "600B (75%)")
    containers = [{"State": "running", "SizeRw": 10}, {"State": "exited", "SizeRw": 30}]
    assert df._containers({"Containers": containers})["Reclaimable"] == "30B (75%)"
    volumes = [{"UsageData": {"Size": 5, "RefCount": 1}}, {"UsageData": {"Size": -1, "RefCount": 0}}]
    assert df._volumes({"Volumes": volumes})["Reclaimable"] == "0B (0%)"
    assert df._build_cache({})["Reclaimable"] == "0B"


def test_the_warning_of_system_prune() -> None:
    assert prune._warning(["label=x"], True, True) == (
        "WARNING! This will remove:\n"
        "  - all stopped containers\n"
        "  - all networks not used by at least one container\n"
        "  - all anonymous volumes not used by at least one container\n"
        "  - all images without at least one container associated to them\n"
        "  - all build cache\n"
        "\n  Items to be pruned will be filtered with:\n"
        "  - label=x\n"
    )
