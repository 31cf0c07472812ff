# SPDX-License-Identifier: Apache-2.0
"""Shortens the start of this environment's commands: `python -m orlop.launchers`, once after each installation.

The commands that pip writes have the interpreter look for site packages, run every .pth file there, and (with
older versions of pip) import `re`: 9 ms before the first line of ours, longer than runc takes for a whole
`start`. Those that this module writes in their place name the interpreter with `-I -S` (nothing from the
environment, nothing from site) and list the directories that hold orlop and what it depends on. Either kind works;
tools/setup calls this.
"""

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import EntryPoint, distribution

# The commands that are started for one task each. Daemons stay as they are.
QUICK = ("orlop", "orlop-runc", "orlop-ctr", "containerd-shim-orlop-v2")
_LONGEST = 255  # of the first line (BINPRM_BUF_SIZE, linux/binfmts.h)
_SCRIPT = """\
#!{python} -IS
# Written by orlop.launchers.
import sys

# The package is found without a look into any other directory, and shadows nothing.
sys.path.insert(0, {home!r})
import orlop

sys.path[:1] = []
sys.path += {path!r}
from {module} import {function}

sys.exit({function}())
"""


def main() -> None:
    """Rewrite the commands; says which cannot be, and leaves those as pip has made them."""
    python = sys.executable
    if any(character.isspace() for character in python) or len(f"#!{python} -IS\n") > _LONGEST:
        sys.exit(f"{python}: too long, or has a space: the kernel can start no script by it; nothing is changed")
    path = search_path(python)
    directory = sysconfig.get_path("scripts")
    for entry in distribution("orlop").entry_points.select(group="console_scripts"):
        command = os.path.join(directory, entry.name)
        if entry.name in QUICK and os.path.exists(command):
            try:
                write(command, script(python, path, entry))
            except OSError as error:
                sys.exit(f"cannot rewrite {command}: {error.strerror}")


def search_path(python: str) -> list[str]:
    """Where this interpreter finds modules that it would not with `-I -S`."""
    asked = [python, "-IS", "-c", "import sys; print(*sys.path, sep='\\n')"]
    bare = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    # Without -P the first is the current directory.
    present = sys.path if sys.flags.safe_path else sys.path[1:]
    return [entry for entry in present if os.path.isdir(entry) and entry not in bare]


def script(python: str, path: list[str], entry: EntryPoint) -> str:
    """The text of a command."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return _SCRIPT.format(python=python, home=home, path=path, module=entry.module, function=entry.attr)


def write(command: str, text: str) -> None:
    """Replace a command in one step: it may be running, or be started at this moment."""
    temporary = f"{command}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(temporary, 0o755)
    os.rename(temporary, command)


if __name__ == "__main__":
    main()
