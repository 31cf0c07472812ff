# SPDX-License-Identifier: Apache-2.0
"""`context`: named daemons, shared with Docker's command."""

import os
import sys
from typing import Any

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.format import Column
from orlop.cli.output import check_stdout, write_archive
from orlop.engine import contexts
from orlop.engine.client import DEFAULT_HOST, Client
from orlop.errdefs import NotFoundError, OrlopError

_COLUMNS = [
    Column("Name", "NAME"),
    Column("Description", "DESCRIPTION"),
    Column("DockerEndpoint", "DOCKER ENDPOINT"),
    Column("Error", "ERROR"),
    Column("Current", "CURRENT"),
]
_SHOWN = ["Name", "Description", "DockerEndpoint", "Error"]
_FILES = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
_OVERRIDDEN = (
    "Warning: DOCKER_HOST environment variable overrides the active context. To use a context, either set the "
    "global --context flag, or unset DOCKER_HOST environment variable."
)


def _default() -> dict[str, Any]:
    host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    return {
        "Name": contexts.DEFAULT,
        "Metadata": {"Description": "Current DOCKER_HOST based configuration"},
        "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": False}},
    }


def _read(name: str) -> dict[str, Any]:
    return _default() if name == contexts.DEFAULT else contexts.read(name)


def _create(client: Client, args: Args) -> int:
    name = args.positional[0]
    contexts.check_name(name)
    source, description = args.text("from"), args.text("description")
    if source or "docker" not in args.given:
        metadata, tls = _copy(source or client.context)
    else:
        metadata, tls = {}, {}
    if "docker" in args.given:
        if source:
            raise ExitError("cannot use --docker flag when --from is set")
        docker, tls = _endpoint(args)
        metadata["Endpoints"] = {"docker": docker}
    metadata["Name"] = name
    if description or "Metadata" not in metadata:
        metadata["Metadata"] = {"Description": description} if description else {}
    contexts.write(metadata, tls)
    return _told(name, f'Successfully created context "{name}"')


def _copy(name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    return dict(_read(name)), ({} if name == contexts.DEFAULT else contexts.tls_of(name))


def _update(client: Client, args: Args) -> int:
    name = args.positional[0]
    contexts.check_name(name)
    metadata = _existing(name)
    tls = None
    if "description" in args.given:
        metadata["Metadata"] = {**(metadata.get("Metadata") or {}), "Description": args.text("description")}
    if "docker" in args.given:
        docker, tls = _endpoint(args)
        metadata["Endpoints"] = {**(metadata.get("Endpoints") or {}), "docker": docker}
    contexts.write(metadata, tls, replace=True)
    return _told(name, f'Successfully updated context "{name}"')


def _existing(name: str) -> dict[str, Any]:
    try:
        return contexts.read(name)
    except NotFoundError:
        raise ExitError(f'context "{name}" does not exist') from None


def _endpoint(args: Args) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The endpoint that `--docker` describes, and its TLS files."""
    prefix = "unable to create docker endpoint config"
    given = dict(pair.partition("=")[::2] for text in args.items("docker") for pair in text.split(","))
    if unknown := given.keys() - {"host", "from", "skip-tls-verify", *_FILES}:
        raise ExitError(f"{prefix}: unrecognized config key: {min(unknown)}")
    if source := given.get("from"):
        metadata, tls = _copy(source)
        return metadata["Endpoints"]["docker"], tls
    host = given.get("host", "")
    if host and not host.startswith(("unix://", "tcp://")):
        raise ExitError(
            f"{prefix}: unable to parse docker host `{host}`: expected unix:///path or tcp://host:port"
        )
    tls = {}
    for key, file_name in _FILES.items():
        if path := given.get(key):
            try:
                with open(path, "rb") as file:
                    tls[file_name] = file.read()
            except OSError as error:
                raise ExitError(f"{prefix}: open {path}: {(error.strerror or '').lower()}") from None
    skip = given.get("skip-tls-verify", "false").lower() in ("1", "t", "true")
    return {"Host": host or DEFAULT_HOST, "SkipTLSVerify": skip}, tls


def _list(client: Client, args: Args) -> int:
    rows = []
    marks = args.text("format") in ("", "table") and not args.flag("quiet")
    for name in [contexts.DEFAULT, *contexts.names()]:
        metadata, error = {}, ""
        try:
            metadata = _read(name)
        except OrlopError as failure:
            error = str(failure)
        current = name == client.context
        rows.append(
            {
                "Name": f"{name} *" if current and marks else name,
                "Description": (metadata.get("Metadata") or {}).get("Description", ""),
                "DockerEndpoint": ((metadata.get("Endpoints") or {}).get("docker") or {}).get("Host", ""),
                "Error": error,
                "Current": current,
            }
        )
    quiet = "Name" if args.flag("quiet") else ""
    print(listing.render_rows(rows, args.text("format"), _SHOWN, _COLUMNS, quiet_field=quiet), end="")
    if os.environ.get("DOCKER_HOST") and client.context == contexts.DEFAULT and not quiet:
        print(_OVERRIDDEN, file=sys.stderr)
    return 0


def _inspect(client: Client, args: Args) -> int:
    found = []
    for name in args.positional or [client.context]:
        metadata = _read(name)
        stored = name != contexts.DEFAULT
        found.append(
            {
                **metadata,
                "TLSMaterial": {"docker": list(contexts.tls_of(name))} if stored and contexts.tls_of(name) else {},
                "Storage": {
                    "MetadataPath": contexts.metadata_directory(name) if stored else "<IN MEMORY>",
                    "TLSPath": contexts.tls_directory(name) if stored else "<IN MEMORY>",
                },
            }
        )
    listing.print_objects(found, args.text("format"))
    return 0


def _show(client: Client, args: Args) -> int:
    print(client.context)
    return 0


def _use(client: Client, args: Args) -> int:
    name = args.positional[0]
    contexts.use(name)
    _told(name, f'Current context is now "{name}"')
    if os.environ.get("DOCKER_HOST") and name != contexts.DEFAULT:
        print(_OVERRIDDEN, file=sys.stderr)
    return 0


def _remove(client: Client, args: Args) -> int:
    failures = []
    for name in args.positional:
        try:
            _remove_one(name, client.context, force=args.flag("force"))
            print(name)
        except (ExitError, OrlopError) as error:
            failures.append(str(error))
    if failures:
        raise ExitError("\n".join(failures))
    return 0


def _remove_one(name: str, current: str, *, force: bool) -> None:
    if name == contexts.DEFAULT:
        raise ExitError(f'context "{name}" cannot be removed')
    in_use = name in (current, contexts.configured())
    if in_use and not force:
        raise ExitError(f'context "{name}" is in use, set -f flag to force remove')
    contexts.remove(name)
    if name == contexts.configured():
        contexts.use(contexts.DEFAULT)


def _export(client: Client, args: Args) -> int:
    from orlop.cli.context_archive import pack

    name = args.positional[0]
    path = args.positional[1] if len(args.positional) > 1 else f"{name}.dockercontext"
    contexts.check_name(name)
    data = pack(contexts.read(name), contexts.tls_of(name))
    if path == "-":
        check_stdout()
        write_archive([data], "")
        return 0
    if os.path.exists(path):
        raise ExitError(f"open {path}: file exists")
    write_archive([data], path)
    print(f'Written file "{path}"', file=sys.stderr)
    return 0


def _import(client: Client, args: Args) -> int:
    from orlop.cli.context_archive import unpack

    name, path = args.positional
    contexts.check_name(name)
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                data = file.read()
    except OSError as error:
        raise ExitError(f"open {path}: {(error.strerror or '').lower()}") from None
    metadata, tls = unpack(data)
    contexts.write({**metadata, "Name": name}, tls)
    return _told(name, f'Successfully imported context "{name}"')


def _told(name: str, message: str) -> int:
    print(name, flush=True)
    print(message, file=sys.stderr)
    return 0


_DESCRIPTION = Flag("description", "", "string", "Description of the context")
_DOCKER = Flag("docker", "", "list", "set the docker endpoint (default [])", shown_kind="stringToString")
_ENDPOINT_HELP = """

Docker endpoint config:

NAME                DESCRIPTION
from                Copy named context's Docker endpoint configuration
host                Docker endpoint on which to connect
ca                  Trust certs signed only by this CA
cert                Path to TLS certificate file
key                 Path to TLS key file
skip-tls-verify     Skip TLS certificate validation"""

CREATE = Command(
    "create [OPTIONS] CONTEXT",
    "Create a context",
    _create,
    flags=[_DESCRIPTION, _DOCKER, Flag("from", "", "string", "create context from a named context")],
    min_args=1,
    max_args=1,
    long="Create a context" + _ENDPOINT_HELP,
)
UPDATE = Command(
    "update [OPTIONS] CONTEXT",
    "Update a context",
    _update,
    flags=[_DESCRIPTION, _DOCKER],
    min_args=1,
    max_args=1,
    long="Update a context" + _ENDPOINT_HELP,
)
LIST = Command(
    "ls [OPTIONS]",
    "List contexts",
    _list,
    flags=[
        Flag("format", "", "string", listing.HELP),
        Flag("quiet", "q", "bool", "Only show context names"),
    ],
)
INSPECT = Command(
    "inspect [OPTIONS] [CONTEXT] [CONTEXT...]",
    "Display detailed information on one or more contexts",
    _inspect,
    flags=[Flag("format", "f", "string", "Format output using a custom template: 'json' or a Go template")],
    max_args=None,
)
SHOW = Command("show", "Print the name of the current context", _show)
USE = Command("use CONTEXT", "Set the current docker context", _use, min_args=1, max_args=1)
REMOVE = Command(
    "rm CONTEXT [CONTEXT...]",
    "Remove one or more contexts",
    _remove,
    flags=[Flag("force", "f", "bool", "Force the removal of a context in use")],
    min_args=1,
    max_args=None,
)
EXPORT = Command(
    "export [OPTIONS] CONTEXT [FILE|-]",
    "Export a context to a tar archive FILE or a tar stream on STDOUT.",
    _export,
    min_args=1,
    max_args=2,
)
IMPORT = Command(
    "import CONTEXT FILE|-", "Import a context from a tar or zip file", _import, min_args=2, max_args=2
)
