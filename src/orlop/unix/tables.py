# SPDX-License-Identifier: Apache-2.0
"""Tables of the kernel's in /proc whose rows hold names that users have chosen: mountinfo, cgroup (proc(5))."""


def rows(path: str) -> list[str]:
    """The lines of a table, split at line feeds and nowhere else.

    The kernel escapes a line feed, a space, a tab and a backslash in a name. Anything else, such as a carriage
    return, stands there as it is, and would part lines for text files and `str.splitlines`.
    """
    with open(path, "rb", buffering=0) as file:
        raw = file.read()
    return raw.decode("utf-8", "surrogateescape").split("\n")[:-1]


def unescape(field: str) -> str:
    """A name as it is, from how a table writes it."""
    if "\\" not in field:
        return field
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field
