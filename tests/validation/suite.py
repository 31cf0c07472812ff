# SPDX-License-Identifier: Apache-2.0
"""Builds OCI's validation suite, runs it over runc, crun and orlop-runc, and tabulates the verdicts."""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass

SOURCE = "https://github.com/opencontainers/runtime-tools"
# The last commit that Debian 12's Go (1.19) compiles.
COMMIT = "260e151b8552afa2678ef6d41820ea0f31cd8be1"
CACHE = "/var/tmp/orlop-validation"
HERE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RUNTIMES = {
    "runc": "/usr/sbin/runc",
    "crun": "/usr/bin/crun",
    "orlop-runc": f"{HERE}/.venv/bin/orlop-runc",
}
OURS = "orlop-runc"
WITHIN = 60  # seconds, for one program of the suite

# Where ours does otherwise on purpose although an original passes: program, reason.
EXCEPTIONS: dict[str, str] = {
    "pidfile": "a race: the container's `true` has to run still when `start`, `state` and `kill` have each been "
    "executed; crun passes it about twice in three times, and never when its `state` comes 30 ms later",
}

# A mount namespace for each run: a runtime that mounts in its caller's leaves nothing behind. crun refuses both
# versions of control groups at once: it gets version 1 alone.
ENTER = 'mount --make-rprivate /; [ -z "$ALONE" ] || umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'


@dataclass
class Verdict:
    """What one program of the suite said of one runtime."""

    passed: bool
    ok: int
    failed: int
    seconds: float
    complaints: list[str]

    def __str__(self) -> str:
        return f"{'pass' if self.passed else 'FAIL'} {self.ok}/{self.ok + self.failed}"


def judge(status: int, out: str, err: str, seconds: float) -> Verdict:
    """The verdict in a program's exit status, its TAP and its complaints."""
    ok = len(re.findall(r"^ok ", out, re.M))
    complaints = re.findall(r"^not ok .*", out, re.M)
    failed = len(complaints)
    if not ok and (error := re.search(r'^    "error": (.*)', out, re.M)):
        complaints.append(error[1])
    if status:
        complaints.append(f"exit status {status}: {err.strip()[-200:]}")
    return Verdict(not complaints, ok, failed, seconds, complaints)


def build(cache: str, source: str) -> list[str]:
    """Have the suite in the cache directory; the names of its programs."""
    tree, stamp = f"{cache}/source", f"{cache}/bin/.built-{COMMIT}"
    if not os.path.exists(stamp):
        for command in ("git", "go"):
            if shutil.which(command) is None:
                print(f"installing {command}")
                package = {"go": "golang-go"}.get(command, command)
                install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
                subprocess.run(["apt-get", "update", "-qq"], check=True)
                subprocess.run(install, check=True, stdout=subprocess.DEVNULL)
        os.makedirs(cache, exist_ok=True)
        if not os.path.isdir(f"{tree}/.git"):
            subprocess.run(["git", "clone", "-q", source, tree], check=True)
        subprocess.run(["git", "-C", tree, "checkout", "-q", COMMIT], check=True)
        shutil.rmtree(f"{cache}/bin", ignore_errors=True)
        os.makedirs(f"{cache}/bin")
        environment = os.environ | {
            "GOCACHE": f"{cache}/gocache", "GOFLAGS": "-mod=vendor", "GO111MODULE": "on", "GOPROXY": "off",
            "CGO_ENABLED": "0", "GOPATH": f"{cache}/gopath",
        }  # fmt: skip
        for target, package in (("runtimetest", "./cmd/runtimetest"), ("bin/", "./validation/...")):
            flags = ["-tags", "netgo osusergo", "-ldflags", "-s -w", "-o", f"{cache}/{target}"]
            subprocess.run(["go", "build", *flags, package], cwd=tree, env=environment, check=True)
        shutil.copy(f"{tree}/rootfs-amd64.tar.gz", f"{cache}/rootfs-amd64.tar.gz")
        with open(stamp, "w", encoding="utf-8"):
            pass
    return sorted(name for name in os.listdir(f"{cache}/bin") if not name.startswith("."))


def run(cache: str, program: str, runtime: str) -> Verdict:
    """Run one program of the suite over one runtime, and remove the bundles that it leaves."""
    alone = "1" if runtime == "crun" else ""
    temporary = f"{cache}/tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    os.mkdir(temporary)
    environment = os.environ | {"RUNTIME": RUNTIMES[runtime], "TMPDIR": temporary, "ALONE": alone}
    begun = time.monotonic()
    try:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", ENTER, "sh", f"{cache}/bin/{program}"],
            cwd=cache, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=WITHIN, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Verdict(False, 0, 0, WITHIN, [f"no end within {WITHIN} s"])
    out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    return judge(done.returncode, out, err, time.monotonic() - begun)


def sweep() -> None:
    """Remove the empty control groups that the suite's programs name and leave."""
    for directory in os.listdir("/sys/fs/cgroup"):
        for path in ("testdir/cgrouptest/container", "testdir/cgrouptest", "testdir", "cgrouptest"):
            try:
                os.rmdir(f"/sys/fs/cgroup/{directory}/{path}")
            except OSError:
                continue  # not there, or not empty


def version(runtime: str) -> str:
    """The version that a runtime says it is."""
    done = subprocess.run([RUNTIMES[runtime], "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def table(results: dict[str, dict[str, Verdict]], runtimes: list[str]) -> str:
    """The verdicts as a Markdown table: pass or fail, and assertions that hold of those made."""
    lines = [f"| program | {' | '.join(runtimes)} |", f"| --- |{' --- |' * len(runtimes)}"]
    for program, verdicts in results.items():
        lines.append(f"| {program} | {' | '.join(str(verdicts[name]) for name in runtimes)} |")
    passed = [sum(verdicts[name].passed for verdicts in results.values()) for name in runtimes]
    lines.append(f"| **passed of {len(results)}** | {' | '.join(f'**{count}**' for count in passed)} |")
    return "\n".join(lines)


def behind(results: dict[str, dict[str, Verdict]]) -> list[str]:
    """The programs that an original passes and ours does not."""
    return [
        program
        for program, verdicts in results.items()
        if not verdicts[OURS].passed
        and any(verdict.passed for name, verdict in verdicts.items() if name != OURS)
        and program not in EXCEPTIONS
    ]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="tests/validation/run", description=__doc__)
    parser.add_argument("--cache", default=CACHE, help="where the suite is built (default: %(default)s)")
    parser.add_argument("--source", default=SOURCE, help="its git repository (default: %(default)s)")
    parser.add_argument("--runtime", action="append", choices=RUNTIMES, help="one runtime only (may be repeated)")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what each program complains about")
    parser.add_argument("program", nargs="*", help="programs of the suite (default: all)")
    given = parser.parse_args()
    if os.geteuid() != 0:
        print("tests/validation/run: containers are started: run it as root", file=sys.stderr)
        return 1
    programs = build(given.cache, given.source)
    runtimes = [name for name in given.runtime or RUNTIMES if os.path.exists(RUNTIMES[name])]
    results: dict[str, dict[str, Verdict]] = {}
    for program in given.program or programs:
        results[program] = {name: run(given.cache, program, name) for name in runtimes}
        if given.verbose:
            for name, verdict in results[program].items():
                print(f"{program} {name} {verdict} {verdict.seconds:.1f} s", *verdict.complaints, sep="\n  ")
    sweep()
    print(f"{datetime.date.today()}, runtime-tools {COMMIT[:12]}, Linux {os.uname().release}")
    print("; ".join(version(name) for name in runtimes))
    print(table(results, runtimes))
    if OURS not in runtimes:
        return 0
    late = behind(results)
    print(f"\nbehind an original: {', '.join(late) or 'none'}")
    for program in [name for name in EXCEPTIONS if name in results]:
        print(f"not counted: {program}: {EXCEPTIONS[program]}")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
