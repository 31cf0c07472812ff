# SPDX-License-Identifier: Apache-2.0
"""Shortens the start of this environment's commands: `python -m orlop.launchers`, once after each installation.

The commands that pip writes have the interpreter look for site packages, run every .pth file there, and (with
older versions of pip) import `re`: 9 ms before the first line of ours, longer than runc takes for a whole
`start`. This module writes in their place, for those that are started for one task each,

- a script in `libexec/orlop` of the environment that names the interpreter with `-I -S` (nothing from the
  environment, nothing from site) and lists the directories that hold orlop and what it depends on;
- where that can be, an executable in place of the command that holds the started interpreter with all that the
  command needs (orlop.unix.unexec) and executes the script when any of it has changed since. Elsewhere the command
  is a copy of the script.

All three kinds work; tools/setup calls this.
"""

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import EntryPoint, distribution

from orlop.unix.unexec import capture

# The commands that are started for one task each. Daemons stay as they are.
QUICK = ("orlop", "orlop-runc", "orlop-ctr", "containerd-shim-orlop-v2")
# Those whose modules say what can be done before they are captured.
CAPTURED = ("orlop", "orlop-runc", "containerd-shim-orlop-v2")
_LONGEST = 255  # of the first line (BINPRM_BUF_SIZE, linux/binfmts.h)
_BEGIN = """\
import sys

# The package is found without a look into any other directory, and shadows nothing.
sys.path.insert(0, {home!r})
import orlop

sys.path[:1] = []
sys.path += {path!r}
"""
_SCRIPT = """\
#!{python} -IS
# Written by orlop.launchers.
{begin}from {module} import {function}

sys.exit({function}())
"""
_LAYOUT = "from orlop.unix.unexec import capture; capture.plain_layout({command!r})"
_CAPTURE = "from orlop.unix.unexec import capture; capture.main({target!r}, {script!r}, {entry!r})"


def main() -> None:
    """Rewrite the commands; says which cannot be, and leaves those as pip has made them."""
    python = sys.executable
    if any(character.isspace() for character in python) or len(f"#!{python} -IS\n") > _LONGEST:
        sys.exit(f"{python}: too long, or has a space: the kernel can start no script by it; nothing is changed")
    path = search_path(python)
    directory = sysconfig.get_path("scripts")
    scripts = os.path.join(sysconfig.get_path("data"), "libexec", "orlop")
    for entry in distribution("orlop").entry_points.select(group="console_scripts"):
        command = os.path.join(directory, entry.name)
        if entry.name not in QUICK or not os.path.exists(command):
            continue
        text = script(python, path, entry)
        try:
            os.makedirs(scripts, exist_ok=True)
            write(os.path.join(scripts, entry.name), text)
            if entry.name not in CAPTURED or not executable(python, path, entry, command, scripts):
                write(command, text)
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
    return _SCRIPT.format(python=python, begin=_begin(path), module=entry.module, function=entry.attr)


def executable(python: str, path: list[str], entry: EntryPoint, command: str, scripts: str) -> bool:
    """Put the executable of a command in its place; whether it could be made, and works.

    It says on standard error why it could not. `scripts` is the directory of the script that it falls back to.
    """
    if not capture.possible():
        return False
    made = f"{command}.new"
    fallback = os.path.join(scripts, entry.name)
    inner = _begin(path) + _CAPTURE.format(target=made, script=fallback, entry=f"{entry.module}:{entry.attr}")
    outer = _begin(path) + _LAYOUT.format(command=[python, "-IS", "-c", inner])
    try:
        if subprocess.run([python, "-IS", "-c", outer], check=False).returncode != 0:
            return False
        # A kernel may refuse it, or its addresses.
        if reason := why_not(made):
            sys.stderr.write(f"{command}: does not work when captured ({reason})\n")
            return False
        os.rename(made, command)
        return True
    finally:
        if os.path.exists(made):
            os.unlink(made)


def why_not(made: str) -> str:
    """What keeps an executable from working here; "" if nothing does."""
    try:
        code = subprocess.run([made, "-v"], stdout=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        return str(error.strerror)
    return f"exit code {code}" if code else ""


def write(command: str, text: str) -> None:
    """Replace a command in one step: it may be running, or be started at this moment."""
    temporary = f"{command}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(temporary, 0o755)
    os.rename(temporary, command)


def _begin(path: list[str]) -> str:
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return _BEGIN.format(home=home, path=path)


if __name__ == "__main__":
    main()
