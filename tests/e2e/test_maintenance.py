# SPDX-License-Identifier: Apache-2.0
"""Looking after images, containers and space, by the real docker CLI and by ours, against the whole stack."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from support.e2e import Cli, Stack
from support.limits import limits_of
from support.registry import Registry

pytestmark = pytest.mark.root


def ok(cli: Cli, *arguments: str, input: str | None = None) -> str:
    result = cli(*arguments, input=input)
    assert result.returncode == 0, f"{arguments}: {result.stderr}"
    return result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["history", "busybox"],
        ["history", "--no-trunc", "busybox"],
        ["history", "-q", "busybox"],
        ["history", "-H=false", "--format", "{{.ID}} {{.Size}} {{.CreatedBy}}", "busybox"],
        ["image", "history", "busybox"],
        ["system", "df"],
        ["system", "df", "--format", "{{.Type}}: {{.TotalCount}} {{.Active}} {{.Reclaimable}}"],
        ["system", "df", "-v"],
        ["ps", "-as"],
        ["ps", "-a", "--format", "{{.Size}}"],
    ],
)
def test_both_command_lines_print_the_same(stack: Stack, arguments: list[str]) -> None:
    name = stack.docker("create", "-v", "/data", "busybox", "true").stdout.strip()
    try:
        ours, theirs = (_without_ages(ok(cli, *arguments)) for cli in (stack.orlop, stack.docker))
        assert ours == theirs
    finally:
        stack.docker("rm", "-f", "-v", name)


def _without_ages(text: str) -> str:
    """The clock goes on between two commands; columns grow with what is in them."""
    text = re.sub(r"(Less than a|\d+) seconds? ago", "now", text)
    return re.sub(r" +", " ", text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["update", "x"],
        ["commit"],
        ["diff", "nosuch"],
        ["export", "nosuch"],
        ["history", "nosuch"],
        ["save", "-o", "/nosuch/dir/file", "busybox"],
        ["import", "/nosuch/file"],
        ["push", "-a", "localhost:1/x:tag"],
        ["cp", "nosuch:/x", "."],
        ["cp", "", "x:/"],
        ["login", "-u", "a", "-p", "b", "--password-stdin"],
        ["login", "--password-stdin"],
        ["container", "prune", "-f", "--filter", "x"],
        ["rm", "nosuch"],
    ],
)
def test_both_command_lines_fail_the_same(stack: Stack, arguments: list[str]) -> None:
    expected, got = stack.docker(*arguments), stack.orlop(*arguments)
    assert got.returncode == expected.returncode, got.stderr
    assert got.stderr.replace("orlop", "docker").strip() == expected.stderr.strip()


def test_update(cli: Cli, stack: Stack) -> None:
    name = ok(cli, "run", "-d", "-m", "64m", "busybox", "sleep", "1000").strip()
    try:
        given = [
            "-m",
            "96m",
            "--memory-swap",
            "-1",
            "--cpus",
            "0.5",
            "--pids-limit",
            "50",
            "--restart",
            "on-failure:2",
        ]
        assert ok(cli, "update", *given, name) == f"{name}\n"
        (shown,) = json.loads(ok(cli, "inspect", name))
        host = shown["HostConfig"]
        assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (96 << 20, 500_000_000, 50)
        assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
        assert limits_of(shown["State"]["Pid"]).memory == 96 << 20
    finally:
        cli("rm", "-f", name)


def test_save_and_load(cli: Cli, tmp_path: Path) -> None:
    ok(cli, "tag", "busybox", "saved:1")
    ok(cli, "save", "-o", str(tmp_path / "saved.tar"), "saved:1")
    streamed = subprocess.run(
        [cli.program, "save", "saved:1"], capture_output=True, check=True, env=cli._stack.environment()
    ).stdout
    assert len(streamed) == (tmp_path / "saved.tar").stat().st_size
    ok(cli, "rmi", "saved:1")
    assert "Loaded image: saved:1" in ok(cli, "load", "-i", str(tmp_path / "saved.tar"))
    ok(cli, "rmi", "saved:1")


def test_push(cli: Cli, near_registry: Registry) -> None:
    name = f"{near_registry.host}/pushed/by-{Path(cli.program).name}:1"
    ok(cli, "tag", "busybox", name)
    pushed = ok(cli, "push", name)
    assert "digest: sha256:" in pushed and f"The push refers to repository [{name.removesuffix(':1')}]" in pushed
    assert ok(cli, "push", "-q", name) == f"{name}\n"
    ok(cli, "rmi", name)
    ok(cli, "pull", name)
    ok(cli, "rmi", name)


def test_login_and_logout(cli: Cli, stack: Stack, near_registry: Registry) -> None:
    """A registry that wants no credentials takes any."""
    login = cli("login", "-u", "somebody", "--password-stdin", near_registry.host, input="secret\n")
    assert login.returncode == 0 and "Login Succeeded" in login.stdout, login.stderr
    assert "stored unencrypted" in login.stderr
    config = json.loads((stack.base / "client" / "config.json").read_text())
    assert set(config["auths"]) == {near_registry.host}
    out = cli("logout", near_registry.host)
    assert (out.returncode, out.stdout) == (0, f"Removing login credentials for {near_registry.host}\n")
    assert not json.loads((stack.base / "client" / "config.json").read_text()).get("auths")


def test_search_says_where_it_could_not_ask(cli: Cli) -> None:
    result = cli("search", "127.0.0.1:1/busybox")
    assert result.returncode == 1
    assert "Error response from daemon: " in result.stderr
    assert "127.0.0.1:1/v1/search" in result.stderr


def test_prune(cli: Cli) -> None:
    kept = ok(cli, "run", "-d", "--name", "kept", "busybox", "sleep", "1000").strip()
    try:
        gone = ok(cli, "create", "-v", "/data", "busybox", "true").strip()
        refused = cli("container", "prune", input="n\n")
        assert "WARNING! This will remove all stopped containers." in refused.stdout
        assert gone in ok(cli, "ps", "-aq", "--no-trunc")
        pruned = ok(cli, "container", "prune", input="y\n")
        assert f"Deleted Containers:\n{gone}\n\nTotal reclaimed space: " in pruned
        made = ok(cli, "commit", kept).strip()
        assert "Total reclaimed space: " in ok(cli, "image", "prune", "-f")
        assert made not in ok(cli, "images", "-q", "--no-trunc")
        ok(cli, "create", "--name", "unused", "busybox", "true")
        everything = ok(cli, "system", "prune", "-f", "--volumes")
        assert "Deleted Containers:" in everything and "Deleted Volumes:" in everything
        assert ok(cli, "ps", "-a", "--format", "{{.Names}}") == "kept\n"
    finally:
        cli("rm", "-f", "kept", "unused")
