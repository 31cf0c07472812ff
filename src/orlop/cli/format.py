# SPDX-License-Identifier: Apache-2.0
"""Lists in docker's formats: the default table, `table TEMPLATE`, `json`, a Go template, or ids only."""

import re
from typing import Any

from orlop.cli.errors import ExitError, UsageError
from orlop.cli.table import render

HELP = (
    "Format output using a custom template: 'table': Print output in table format with column headers (default), "
    "'table TEMPLATE': Print output in table format using the given Go template, 'json': Print in JSON format, "
    "'TEMPLATE': Print output using the given Go template"
)


class Column:
    """A field of a list's rows: its name in templates and its heading."""

    __slots__ = ("field", "heading")

    def __init__(self, field: str, heading: str) -> None:
        self.field = field
        self.heading = heading


def render_rows(
    rows: list[dict[str, Any]], form: str, shown: list[str], columns: list[Column], *, quiet_field: str = ""
) -> str:
    """`rows` (field → text) in the format `form`. `shown` are the default table's fields.

    With `quiet_field`, only that field of each row. Raises ExitError for a template that can't be used.
    """
    headings = {column.field: column.heading for column in columns}
    if quiet_field and not form:
        return "".join(f"{row[quiet_field]}\n" for row in rows)
    if form in ("", "table"):
        return render([[headings[f] for f in shown], *([str(row[f]) for f in shown] for row in rows)])
    if form == "json":
        from orlop.cli.gotemplate import to_json

        return "".join(to_json(dict(sorted(row.items()))) + "\n" for row in rows)
    form = form.replace("\\t", "\t").replace("\\n", "\n")
    if form.startswith("table "):
        template = form[6:].strip()
        heading = re.sub(r"\{\{[^}]*?\.([A-Za-z]+)[^}]*\}\}", lambda m: headings.get(m[1], m[1].upper()), template)
        lines = [heading, *(fill(template, row) for row in rows)]
        return render([line.split("\t") for line in lines])
    return "".join(fill(form, row) + "\n" for row in rows)


def print_objects(objects: list[Any], form: str) -> None:
    """What `inspect` found: each in the template `form`, or all as one JSON list (`json`: in one line)."""
    import json

    if form == "json":
        from orlop.cli.gotemplate import to_json

        print(to_json(objects))
    elif form:
        for item in objects:
            print(fill(form, item))
    else:
        print(json.dumps(objects, indent=4, ensure_ascii=False))


def fill(template: str, data: Any) -> str:
    """One template over one object. Raises ExitError with docker's prefix."""
    from orlop.cli.gotemplate import TemplateError
    from orlop.cli.gotemplate import render as render_template

    try:
        return render_template(template, data)
    except TemplateError as error:
        raise ExitError(f"template parsing error: template: :1: {error}") from None


def parse_filters(pairs: list[str], flag: str = "-f, --filter") -> str | None:
    """`--filter key=value` flags as the API's JSON. Raises UsageError, which names the flag."""
    if not pairs:
        return None
    from orlop.cli.gotemplate import to_json

    filters: dict[str, dict[str, bool]] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            reason = "bad format of filter (expected name=value)"
            raise UsageError(f'invalid argument "{pair}" for "{flag}" flag: {reason}')
        filters.setdefault(key.strip().lower(), {})[value.strip()] = True
    return to_json(filters)
