# SPDX-License-Identifier: Apache-2.0
"""Fuzzes each target of targets.py for a while, guided by the coverage of orlop's own code.

What is found stays in the corpus directory, and where a promise is broken the input that does it is named.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CORPUS = "/var/tmp/orlop-fuzz"


def _one(name: str, arguments: list[str]) -> None:
    """In a process of its own: libFuzzer never returns."""
    import atheris

    sys.path.insert(0, HERE)
    with atheris.instrument_imports(include=["orlop"]):
        from fuzz import targets
    target = targets.TARGETS[name]
    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()


def _corpus(directory: str, name: str, seeds: list[bytes]) -> str:
    path = f"{directory}/{name}"
    os.makedirs(path, exist_ok=True)
    for index, seed in enumerate(seeds):
        with open(f"{path}/seed-{index}", "wb") as file:
            file.write(seed)
    return path


def main() -> int:
    """Run the command line."""
    sys.path.insert(0, HERE)
    from fuzz import targets

    parser = argparse.ArgumentParser(prog="tests/fuzz/run", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    parser.add_argument("--corpus", default=CORPUS, help="where inputs are kept (default: %(default)s)")
    parser.add_argument("target", nargs="*", help=f"which (default: all): {', '.join(targets.TARGETS)}")
    given = parser.parse_args()
    failed = []
    for name in given.target or targets.TARGETS:
        corpus = _corpus(given.corpus, name, targets.seeds(name))
        # Scratch directories of the process end with it.
        with tempfile.TemporaryDirectory(prefix="orlop-fuzz-", dir="/dev/shm") as scratch:
            done = subprocess.run(
                [sys.executable, __file__, "--one", name, f"-max_total_time={given.seconds}", "-timeout=20",
                 "-rss_limit_mb=2048", "-verbosity=0", "-print_final_stats=1",
                 f"-artifact_prefix={corpus}/found-", corpus],
                env=os.environ | {"TMPDIR": scratch},
                check=False, capture_output=True, text=True, errors="replace",
            )  # fmt: skip
        counts = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        verdict = "FAILED" if done.returncode else "nothing found"
        print(f"{name}: {counts[0] if counts else 'no'} inputs, {verdict}", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout[-4000:] + done.stderr[-4000:])
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        _one(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())
