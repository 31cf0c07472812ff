# SPDX-License-Identifier: Apache-2.0
"""Run the integration suites of Docker's Python clients over Debian's docker.io and over orlop, and compare.

The suites are those of their authors, at a pinned commit or release, unchanged, outside of this checkout. They
name images of Docker Hub; images of that name are made of programs of this machine before, and served by a
registry that both daemons have as their mirror. A test that passes over docker.io and does not over orlop fails
the run.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from typing import TYPE_CHECKING, NamedTuple

from clients import made_images
from engines import Docker
from support import images, registry
from support.stack import DOCKER, Stack

from orlop.dockerd.containers.links import KEEP_VARIABLES
from orlop.oci.build import write_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orlop.oci.build import BuiltImage

CACHE = "/var/cache/orlop-tests/clients"
ENGINES = ("docker.io", "orlop")


class Suite(NamedTuple):
    """Where a suite is from, what it needs, and how pytest is told to run it."""

    source: str
    """A git repository, or `pypi:name`."""
    version: str
    """A commit, or a release."""
    packages: tuple[str, ...]
    images: Callable[[], dict[str, BuiltImage]]
    arguments: tuple[str, ...]
    environment: dict[str, str]
    meant: dict[str, str]
    """Tests that need not pass here: patterns (fnmatch) of their names, and why."""
    path: str = "."
    """Where in its tree the package is that is tested."""


MIRROR = "127.0.0.1:5999"
_SWARM = "swarm mode is not supported"
_BUILDING = "building images is another project's part"
SUITES = {
    "docker-py": Suite(
        source="https://github.com/docker/docker-py",
        version="afc6d1ee308e78b908b96a94298c37fa8c465588",
        packages=("requests", "urllib3", "paramiko", "websocket-client", "pytest<9", "pytest-timeout"),
        images=lambda: dict.fromkeys(
            ("alpine:3.10", "alpine:latest", "busybox:latest", "hello-world:latest"), images.busybox()
        ),
        arguments=("tests/integration", "--timeout=60"),
        environment={"DOCKER_TEST_API_VERSION": "1.41"},
        meant={
            "*swarm*": _SWARM,
            "*Swarm*": _SWARM,
            "*[sS]ervice*": _SWARM,
            "*_node*": _SWARM,
            "*[sS]ecret*": _SWARM,
            "*[cC]onfigAPITest*": _SWARM,
            "*TestNetworks::test_create_inspect_network_with_scope": _SWARM,
            "*TestNetworks::test_create_network_attachable": _SWARM,
            "*TestNetworks::test_create_network_ingress": _SWARM,
            "*[bB]uild*": _BUILDING,
            "*[pP]lugin*": "managed plugins are not supported",
        },
    ),
    "aiodocker": Suite(
        source="pypi:aiodocker",
        version="0.27.0",
        packages=(
            "aiohttp",
            "async-timeout",
            "packaging",
            "pytest==9.0.3",
            "pytest-asyncio==1.3.0",
            "pytest-timeout",
            "testcontainers==4.14.2",
        ),
        images=lambda: {
            "python:3.13-alpine": made_images.python("3.13"),
            "python:3.14-alpine": made_images.python("3.14"),
            "registry:2": made_images.registry(),
            "hello-world:latest": made_images.hello(),
            "alpine:latest": images.busybox(),
            "busybox:latest": images.busybox(),
        },
        # What its clients leave to the garbage collector is told in whatever test runs then.
        arguments=(
            "tests", "-o", "addopts=", "--timeout=120", "-W", "ignore::pytest.PytestUnraisableExceptionWarning",
        ),
        environment={"TESTCONTAINERS_RYUK_DISABLED": "true"},
        meant={"*build*": _BUILDING},
    ),
    "testcontainers": Suite(
        source="https://github.com/testcontainers/testcontainers-python",
        version="c958e40c",
        packages=(
            "docker", "urllib3", "wrapt", "typing-extensions", "python-dotenv", "PyYAML", "requests", "httpx",
            "bcrypt", "testcontainers==4.15.0", "pytest==9.0.3", "pytest-asyncio==1.3.0", "pytest-mock",
            "pytest-timeout",
        ),
        images=lambda: {
            **dict.fromkeys(
                ("alpine:latest", "bash:latest", "busybox:latest", "ubuntu:latest"), images.busybox()
            ),
            **dict.fromkeys(
                (
                    "nginx:1.25.4-alpine-slim", "nginx:alpine", "nginx:alpine-slim", "nginx:latest",
                    "testcontainers/helloworld:1.2.0",
                ),
                made_images.web(),
            ),
            "hello-world:latest": made_images.hello(),
            "registry:2": made_images.registry(),
        },
        arguments=("tests/core", "-o", "addopts=", "--timeout=120"),
        environment={"TESTCONTAINERS_RYUK_DISABLED": "true"},
        meant={"*test_image::*": _BUILDING, "*docker_in_docker*": _BUILDING},
        path="src",
    ),
}  # fmt: skip


class Engine(NamedTuple):
    """A daemon's address and the prefix of a command that is to see its containers' networks."""

    host: str
    prefix: tuple[str, ...]


@contextlib.contextmanager
def engine(name: str) -> Iterator[Engine]:
    """One of the two, with nothing in it."""
    configuration = json.dumps({"registry-mirrors": [f"http://{MIRROR}"]})
    if name == "orlop":
        with Stack(configuration=configuration) as stack:
            yield Engine(stack.host, ("nsenter", f"--net=/proc/{stack.process.pid}/ns/net"))
        return
    directory = pathlib.Path(tempfile.mkdtemp(prefix="od")) / "e"
    original = Docker(directory, configuration=configuration)
    try:
        original.start()
        (daemon,) = original.daemons()["dockerd"]
        yield Engine(original.host, ("nsenter", f"--net=/proc/{daemon}/ns/net"))
    finally:
        original.stop()
        directory.parent.rmdir()


def fetch(name: str, suite: Suite, cache: str, source: str) -> str:
    """The suite's tree and an environment for it; the tree's path."""
    tree = f"{cache}/{name}-{suite.version[:12]}"
    if not os.path.isdir(tree):
        os.makedirs(cache, exist_ok=True)
        shutil.rmtree(f"{tree}.part", ignore_errors=True)
        if source.startswith("pypi:"):
            _unpack_release(f"{source.removeprefix('pypi:')}=={suite.version}", f"{tree}.part")
        else:
            subprocess.run(["git", "clone", "-q", source, f"{tree}.part"], check=True)
            subprocess.run(["git", "-C", f"{tree}.part", "checkout", "-q", suite.version], check=True)
        os.rename(f"{tree}.part", tree)
    if not os.path.exists(f"{tree}/.venv/ready"):
        subprocess.run([sys.executable, "-m", "venv", f"{tree}/.venv"], check=True)
        pip = [f"{tree}/.venv/bin/pip", "install", "-q", "--disable-pip-version-check", *suite.packages]
        subprocess.run(pip, check=True)
        pathlib.Path(f"{tree}/.venv/ready").touch()
    return tree


def _unpack_release(requirement: str, tree: str) -> None:
    """The source distribution of a release from PyPI, as a git repository of one commit."""
    with tempfile.TemporaryDirectory(prefix="oc") as directory:
        name = requirement.partition("=")[0]
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name, "-d", directory]
        subprocess.run([*pip, requirement], check=True)
        (archive,) = pathlib.Path(directory).glob("*.tar.gz")
        os.mkdir(tree)
        subprocess.run(["tar", "-C", tree, "--strip-components=1", "-xzf", archive], check=True)
    git = ["git", "-C", tree, "-c", "user.name=suite", "-c", "user.email=suite@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", requirement]):
        subprocess.run([*git, *command], check=True)


@contextlib.contextmanager
def mirror(where: Engine, served: dict[str, BuiltImage]) -> Iterator[None]:
    """A registry in the engine's network, with what the suite pulls from Docker Hub; and the images themselves."""
    with tempfile.TemporaryDirectory(prefix="oc") as directory:
        archive, config = f"{directory}/images.tar", f"{directory}/config.yml"
        pathlib.Path(config).write_text(
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
            f"http: {{addr: '{MIRROR}'}}\nlog: {{level: error, accesslog: {{disabled: true}}}}\n",
            encoding="utf-8",
        )
        with open(archive, "wb") as file:
            write_archive(served, file)
        docker = [DOCKER, "-H", where.host]
        subprocess.run([*docker, "load", "-q", "-i", archive], check=True, stdout=subprocess.DEVNULL)
        serving = subprocess.Popen(
            [*where.prefix, registry.BINARY, "serve", config],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "OTEL_TRACES_EXPORTER": "none"},
        )  # fmt: skip
        try:
            for name in served:
                pushed = f"{MIRROR}/{name if '/' in name else f'library/{name}'}"
                for command in (["tag", name, pushed], ["push", "-q", pushed], ["rmi", pushed]):
                    _again([*docker, *command])
            yield
        finally:
            serving.terminate()
            serving.wait(30)


def _again(command: list[str]) -> None:
    """Until it succeeds: the registry may be just starting."""
    deadline = time.monotonic() + 60
    while (done := subprocess.run(command, capture_output=True, text=True, check=False)).returncode:
        if time.monotonic() > deadline:
            raise SystemExit(f"{' '.join(command)}: {done.stderr}")
        time.sleep(0.2)


def run(tree: str, suite: Suite, where: Engine, more: list[str]) -> dict[str, str]:
    """Run a suite over an engine: each test's verdict (passed, failed, skipped) by its name."""
    subprocess.run(["git", "-C", tree, "clean", "-dfq", "-e", ".venv"], check=True)  # of what a run before left
    with tempfile.TemporaryDirectory(prefix="oc") as directory, mirror(where, suite.images()):
        report = f"{directory}/report.xml"
        command = [*where.prefix, f"{tree}/.venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        environment = {
            **os.environ, **suite.environment, "DOCKER_HOST": where.host, "HOME": directory,
            "PYTHONPATH": os.path.normpath(f"{tree}/{suite.path}"),
        }  # fmt: skip
        subprocess.run(
            [*command, f"--junitxml={report}", *suite.arguments, *more],
            cwd=tree, env=environment, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return _verdicts(report)


def _verdicts(report: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for case in xml.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        kinds = {child.tag for child in case}
        verdict = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        # An error of the tear-down is a second entry of the same name.
        found[name] = "failed" if "failed" in (verdict, found.get(name)) else verdict
    return found


def _reason(suite: Suite, test: str) -> str:
    """Why a test need not pass over orlop; empty: it must."""
    return next((reason for pattern, reason in suite.meant.items() if fnmatch.fnmatchcase(test, pattern)), "")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="tests/clients/run", description=__doc__)
    parser.add_argument("--cache", default=CACHE, help="where the suites are kept (default: %(default)s)")
    parser.add_argument(
        "--source", action="append", default=[], metavar="SUITE=PLACE", help="another git repository"
    )
    parser.add_argument("--engine", action="append", choices=ENGINES, help="one engine only")
    parser.add_argument("--suite", action="append", choices=SUITES, help="one suite only (may be repeated)")
    parser.add_argument("more", nargs="*", help="arguments for pytest, after --")
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("tests/clients/run: containers are started: run it as root", file=sys.stderr)
        return 1
    os.environ.setdefault(KEEP_VARIABLES, "1")  # what the suite knows of links is older than their end
    sources = dict(entry.split("=", 1) for entry in given.source)
    status = 0
    for name in given.suite or SUITES:
        suite = SUITES[name]
        tree = fetch(name, suite, given.cache, sources.get(name, suite.source))
        results: dict[str, dict[str, str]] = {}
        for kind in given.engine or ENGINES:
            with engine(kind) as where:
                results[kind] = run(tree, suite, where, given.more)
        for kind, verdicts in results.items():
            counts = {word: list(verdicts.values()).count(word) for word in ("passed", "failed", "skipped")}
            print(f"{name} over {kind}: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
        if len(results) == len(ENGINES):
            theirs, ours = (results[kind] for kind in ENGINES)
            late = [test for test, verdict in theirs.items() if verdict == "passed" != ours.get(test)]
            behind = [test for test in late if not _reason(suite, test)]
            print(f"passed over docker.io, not over orlop, and that is meant: {len(late) - len(behind)}")
            for reason in sorted(set(suite.meant.values())):
                print(f"  {sum(_reason(suite, test) == reason for test in late)}: {reason}")
            print(f"passed over docker.io and not over orlop: {len(behind)}", *behind, sep="\n  ")
            status |= bool(behind)
    return status


if __name__ == "__main__":
    sys.exit(main())
