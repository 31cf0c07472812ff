# SPDX-License-Identifier: Apache-2.0
"""Put the same requests to Debian's dockerd and to orlopd, and tell where the answers differ.

Each daemon runs in a network namespace and directories of its own. Every answer is compared in status, headers and
body, each JSON member by itself. Differences that are meant are listed, with their reason, in accepted.tsv; any
other one fails the run.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import pathlib
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from conformance import exchange, scenario_containers, scenario_others, steps
from conformance.compare import Difference, compare
from engines import Docker
from support.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from conformance.exchange import Answer

SCENARIO = [
    *scenario_others.IMAGES,
    *scenario_others.SYSTEM,
    *scenario_containers.STEPS,
    *scenario_others.VOLUMES,
    *scenario_others.NETWORKS,
    *scenario_others.OFF,
    *scenario_others.LAST,
]
VERSIONS = ("1.24", "1.30", "1.40", "1.41")
ACCEPTED = pathlib.Path(__file__).with_name("accepted.tsv")


class Rule(NamedTuple):
    """A difference that is meant: patterns (fnmatch) of a step's name and of the place in its answer."""

    step: str
    where: str
    reason: str

    def covers(self, difference: Difference) -> bool:
        """True if the rule is about the difference."""
        return fnmatch.fnmatchcase(difference.step, self.step) and fnmatch.fnmatchcase(
            difference.where, self.where
        )


def rules(release: str = "") -> list[Rule]:
    """What accepted.tsv lists, and besides, if there is one, the table of the original's release (`26.1`)."""
    own = ACCEPTED.with_name(f"accepted-{release}.tsv")
    lines = ACCEPTED.read_text(encoding="utf-8").splitlines()[1:]
    if release and own.exists():
        lines += own.read_text(encoding="utf-8").splitlines()[1:]
    return [Rule(*line.split("\t")) for line in lines if line]


class Daemon(NamedTuple):
    """Where a daemon listens, and how its own directories are to be called."""

    socket: str
    places: dict[str, str]


@contextlib.contextmanager
def reference(program: str) -> Iterator[Daemon]:
    """The original, with the containerd that it starts itself."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="od")) / "e"
    engine = Docker(directory, program=program)
    try:
        engine.start()
        yield Daemon(f"{directory}/docker.sock", {f"{directory}/data": "<data>", f"{directory}/exec": "<run>"})
    finally:
        engine.stop()
        directory.parent.rmdir()


@contextlib.contextmanager
def ours() -> Iterator[Daemon]:
    """The whole stack of the checkout."""
    with Stack() as stack:
        yield Daemon(stack.socket, {stack.data_root: "<data>", stack.exec_root: "<run>"})


def release_of(daemon: Daemon) -> tuple[str, str]:
    """Major and minor version of a daemon, and the newest API version that it serves."""
    answer = json.loads(exchange.ask(daemon.socket, "GET", "/version", None, {}).body)
    return ".".join(answer["Version"].split(".")[:2]), answer["ApiVersion"]


def differences(version: str, theirs: Daemon, mine: Daemon) -> list[Difference]:
    """Run the scenario over both daemons: where they differ."""
    major, minor = version.split(".")
    asked = (int(major), int(minor))
    with ThreadPoolExecutor() as threads:
        expected, found = threads.map(lambda daemon: steps.run(daemon.socket, SCENARIO, asked), (theirs, mine))
    return list(compared(expected, found, {**theirs.places, **mine.places}))


def compared(
    expected: dict[str, Answer], found: dict[str, Answer], places: dict[str, str]
) -> Iterator[Difference]:
    """The differences of two runs, in the scenario's order."""
    quiet = {step.name for step in SCENARIO if step.quiet}
    for name, answer in expected.items():
        if name not in quiet:
            yield from compare(name, answer, found[name], places)


def unlisted(found: Sequence[Difference], accepted: Sequence[Rule]) -> list[Difference]:
    """The differences that no rule covers."""
    return [difference for difference in found if not any(rule.covers(difference) for rule in accepted)]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="tests/conformance/run", description=__doc__)
    parser.add_argument(
        "--version",
        action="append",
        help=f"an API version (default: {', '.join(VERSIONS)}, the original's newest)",
    )
    parser.add_argument("--reference", default="dockerd", help="the original's program (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="show also the differences that are listed as meant")
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("tests/conformance/run: containers are started: run it as root", file=sys.stderr)
        return 1
    used: set[Rule] = set()
    failed = 0
    with reference(given.reference) as theirs, ours() as mine:
        release, newest = release_of(theirs)
        accepted = rules(release)
        for version in given.version or dict.fromkeys((*VERSIONS, newest)):
            found = differences(version, theirs, mine)
            used |= {rule for rule in accepted if any(map(rule.covers, found))}
            wrong = unlisted(found, accepted)
            failed += len(wrong)
            print(f"API {version}: {len(SCENARIO)} requests, {len(found)} differences, {len(wrong)} not listed")
            for difference in found if given.all else wrong:
                print(f"  {difference.step}\t{difference.where}\n    {difference.theirs}\n    {difference.ours}")
    for rule in accepted:
        if rule not in used and not given.version:
            print(f"listed, but not seen: {rule.step}\t{rule.where}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
