# SPDX-License-Identifier: Apache-2.0
"""Images and containers as archives: load, save, import, export."""

import os
import sys
from collections.abc import Iterator

from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.output import check_path, check_stdout, write_archive
from orlop.cli.platforms import as_json
from orlop.cli.pulling import show_progress, split_tag
from orlop.engine.client import Client

_CHUNK = 1 << 18
_TAR = {"Content-Type": "application/x-tar"}
_OUTPUT = Flag("output", "o", "string", "Write to a file, instead of STDOUT")


def _load(client: Client, args: Args) -> int:
    path = args.text("input")
    if not path and os.isatty(0):
        raise ExitError("requested load from stdin, but stdin is empty")
    query = {"quiet": args.flag("quiet"), "platform": as_json(args.text("platform"))}
    response = client.stream("POST", "/images/load", query, _read(path), _TAR)
    show_progress(response.lines(), sys.stdout)
    return 0


def _save(client: Client, args: Args) -> int:
    path = args.text("output")
    check_path(path, "failed to save image") if path else check_stdout()
    query = {"names": args.positional, "platform": as_json(args.text("platform"))}
    write_archive(client.stream("GET", "/images/get", query).stream(), path)
    return 0


def _export(client: Client, args: Args) -> int:
    path = args.text("output")
    check_path(path, "failed to export container") if path else check_stdout()
    write_archive(client.stream("GET", f"/containers/{args.positional[0]}/export").stream(), path)
    return 0


def _import(client: Client, args: Args) -> int:
    source, *names = args.positional[:2]
    repository, tag = split_tag(names[0]) if names else ("", "")
    remote = source.startswith(("http://", "https://"))
    query = {
        "fromSrc": source if remote else "-",
        "repo": repository or None,
        "tag": tag or None,
        "message": args.text("message") or None,
        "changes": args.items("change") or None,
        "platform": args.text("platform") or None,
    }
    body = None if remote else _read("" if source == "-" else source)
    response = client.stream("POST", "/images/create", query, body, _TAR)
    show_progress(response.lines(), sys.stdout)
    return 0


def _read(path: str) -> Iterator[bytes]:
    """A file's bytes, or those of standard input, as they are needed. The file is opened at once."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else os.dup(0)
    except OSError as error:
        raise ExitError(f"open {path}: {(error.strerror or '').lower()}") from None

    def chunks() -> Iterator[bytes]:
        try:
            while chunk := os.read(fd, _CHUNK):
                yield chunk
        except OSError as error:
            raise ExitError(f"read {path or 'standard input'}: {(error.strerror or '').lower()}") from None
        finally:
            os.close(fd)

    return chunks()


LOAD = Command(
    "load [OPTIONS]",
    "Load an image from a tar archive or STDIN",
    _load,
    flags=[
        Flag("input", "i", "string", "Read from tar archive file, instead of STDIN"),
        Flag(
            "platform",
            "",
            "string",
            'Load only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")',
        ),
        Flag("quiet", "q", "bool", "Suppress the load output"),
    ],
)
SAVE = Command(
    "save [OPTIONS] IMAGE [IMAGE...]",
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    _save,
    flags=[
        _OUTPUT,
        Flag(
            "platform",
            "",
            "string",
            'Save only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")',
        ),
    ],
    min_args=1,
    max_args=None,
)
EXPORT = Command(
    "export [OPTIONS] CONTAINER",
    "Export a container's filesystem as a tar archive",
    _export,
    flags=[_OUTPUT],
    min_args=1,
    max_args=1,
)
IMPORT = Command(
    "import [OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    "Import the contents from a tarball to create a filesystem image",
    _import,
    flags=[
        Flag("change", "c", "list", "Apply Dockerfile instruction to the created image"),
        Flag("message", "m", "string", "Set commit message for imported image"),
        Flag("platform", "", "string", "Set platform if server is multi-platform capable"),
    ],
    min_args=1,
    max_args=None,
)
