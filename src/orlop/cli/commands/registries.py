# SPDX-License-Identifier: Apache-2.0
"""Registries: push, search, login, logout."""

import os
import sys

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.errors import ExitError
from orlop.cli.flags import Args, Flag
from orlop.cli.format import Column
from orlop.cli.platforms import as_json
from orlop.cli.pulling import show_progress, split_tag
from orlop.cli.table import shorten
from orlop.engine import credentials
from orlop.engine.client import Client

_SEARCH_COLUMNS = [
    Column("Name", "NAME"),
    Column("Description", "DESCRIPTION"),
    Column("StarCount", "STARS"),
    Column("IsOfficial", "OFFICIAL"),
]


def _push(client: Client, args: Args) -> int:
    name, tag = split_tag(args.positional[0])
    everything, quiet = args.flag("all-tags"), args.flag("quiet")
    if tag and everything:
        raise ExitError("tag can't be used with --all-tags/-a")
    if not tag and not everything:
        tag = "latest"
        if not quiet:
            print("Using default tag: latest", flush=True)
    # The daemon wants a header even from those who have nothing to say.
    headers = credentials.registry_auth(name) or {"X-Registry-Auth": "e30="}
    query = {"tag": tag or None, "platform": as_json(args.text("platform"))}
    response = client.stream("POST", f"/images/{name}/push", query, headers=headers)
    show_progress(response.lines(), sys.stdout, quiet=quiet)
    if quiet:
        first = name.partition("/")[0]
        local = "/" in name and (any(c in first for c in ".:") or first == "localhost")
        prefix = "" if local else "docker.io/" if "/" in name else "docker.io/library/"
        print(f"{prefix}{name}" + (f":{tag}" if tag else ""))
    return 0


def _search(client: Client, args: Args) -> int:
    query = {
        "term": args.positional[0],
        "limit": args.number("limit") if "limit" in args.given else None,
        "filters": listing.parse_filters(args.items("filter")),
    }
    rows = []
    for found in client.get("/images/search", query) or []:
        description = found["description"].replace("\n", " ").replace("\r", " ")
        rows.append(
            {
                "Name": found["name"],
                "Description": description if args.flag("no-trunc") else shorten(description, 45),
                "StarCount": str(found["star_count"]),
                "IsOfficial": _official(found["is_official"], args.text("format")),
            }
        )
    shown = ["Name", "Description", "StarCount", "IsOfficial"]
    print(listing.render_rows(rows, args.text("format"), shown, _SEARCH_COLUMNS), end="")
    return 0


def _official(official: bool, form: str) -> str:
    """Tables tick what is official off, other formats tell."""
    if form in ("", "table") or form.startswith("table "):
        return "[OK]" if official else ""
    return "true" if official else "false"


# -- credentials


def _login(client: Client, args: Args) -> int:
    server = args.positional[0] if args.positional else ""
    key = _key(server)
    user, password = _credentials(args, key)
    if "password" in args.given:
        print("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", file=sys.stderr)
    answer = client.post("/auth", None, {"username": user, "password": password, "serveraddress": key})
    token = (answer or {}).get("IdentityToken") or ""
    if credentials.store(key, user, password, token):
        print(
            f"\nWARNING! Your credentials are stored unencrypted in '{credentials.config_path()}'.\n"
            "Configure a credential helper to remove this warning. See\n"
            "https://docs.docker.com/go/credential-store/\n",
            file=sys.stderr,
        )
    print((answer or {}).get("Status") or "Login Succeeded")
    return 0


def _credentials(args: Args, key: str) -> tuple[str, str]:
    if "password" in args.given and args.flag("password-stdin"):
        raise ExitError("conflicting options: cannot specify both --password and --password-stdin")
    if args.flag("password-stdin"):
        if not args.text("username"):
            raise ExitError("the --password-stdin option requires --username to be set")
        password = sys.stdin.read().rstrip("\r\n")
        if not password:
            raise ExitError("Error: Cannot perform an interactive login from a non TTY device")
        return args.text("username"), password
    user, password = args.text("username"), args.text("password")
    if user and password:
        return user, password
    known = credentials.lookup(key) if not user else None
    if known and known.get("username"):
        print("Authenticating with existing credentials...")
        return known["username"], known["password"]
    return _ask(user, password)


def _ask(user: str, password: str) -> tuple[str, str]:
    if not os.isatty(0):
        raise ExitError("Error: Cannot perform an interactive login from a non TTY device")
    import getpass

    user = user or input("Username: ").strip()
    if not user:
        raise ExitError("Error: Non-null Username Required")
    password = password or getpass.getpass("Password: ")
    if not password:
        raise ExitError("Error: Password Required")
    return user, password


def _logout(client: Client, args: Args) -> int:
    server = args.positional[0] if args.positional else ""
    key = _key(server)
    shown = key if key == credentials.HUB else server
    print(f"Removing login credentials for {shown}")
    credentials.erase(key)
    return 0


def _key(server: str) -> str:
    """The key of a registry in config.json: its host, or Docker Hub's address of old."""
    host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return credentials.HUB if host in ("", "docker.io", "index.docker.io", "registry-1.docker.io") else host


PUSH = Command(
    "push [OPTIONS] NAME[:TAG]",
    "Upload an image to a registry",
    _push,
    flags=[
        Flag("all-tags", "a", "bool", "Push all tags of an image to the repository"),
        Flag("disable-content-trust", "", "bool", "Skip image signing (default true)", default=True),
        Flag(
            "platform",
            "",
            "string",
            "Push a platform-specific manifest as a single-platform image to the registry. Image index won't be "
            "pushed, meaning that other manifests, including attestations won't be preserved. "
            "'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)",
        ),
        Flag("quiet", "q", "bool", "Suppress verbose output"),
    ],
    min_args=1,
    max_args=1,
)
SEARCH = Command(
    "search [OPTIONS] TERM",
    "Search Docker Hub for images",
    _search,
    flags=[
        Flag("filter", "f", "list", "Filter output based on conditions provided", shown_kind="filter"),
        Flag("format", "", "string", "Pretty-print search using a Go template"),
        Flag("limit", "", "int", "Max number of search results"),
        Flag("no-trunc", "", "bool", "Don't truncate output"),
    ],
    min_args=1,
    max_args=1,
)
LOGIN = Command(
    "login [OPTIONS] [SERVER]",
    "Authenticate to a registry",
    _login,
    flags=[
        Flag("password", "p", "string", "Password or Personal Access Token (PAT)"),
        Flag("password-stdin", "", "bool", "Take the Password or Personal Access Token (PAT) from stdin"),
        Flag("username", "u", "string", "Username"),
    ],
    max_args=1,
    long="Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
)
LOGOUT = Command(
    "logout [SERVER]",
    "Log out from a registry",
    _logout,
    max_args=1,
    long="Log out from a registry.\nIf no server is specified, the default is defined by the daemon.",
)
