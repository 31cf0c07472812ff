# SPDX-License-Identifier: Apache-2.0
"""`events`: what happens, as it happens."""

import json
import time
from typing import Any

from orlop.cli import format as listing
from orlop.cli.command import Command
from orlop.cli.flags import Args, Flag
from orlop.cli.timestamps import api_time
from orlop.cli.units import NANOSECONDS
from orlop.engine.client import Client


def run(client: Client, args: Args) -> int:
    query = {
        "since": api_time(args.text("since")),
        "until": api_time(args.text("until")),
        "filters": listing.parse_filters(args.items("filter")),
    }
    form = args.text("format")
    for line in client.stream("GET", "/events", query).lines():
        event = json.loads(line)
        if form:
            print(listing.fill("{{json .}}" if form == "json" else form, event), flush=True)
        else:
            print(_line(event), flush=True)
    return 0


def _line(event: dict[str, Any]) -> str:
    nanoseconds = event.get("timeNano") or event["time"] * NANOSECONDS
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    moment = time.localtime(seconds)
    zone = time.strftime("%z", moment)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", moment) + f".{rest:09d}{zone[:3]}:{zone[3:]}"
    actor = event["Actor"]
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    return f"{stamp} {event['Type']} {event['Action']} {actor['ID']}" + (f" ({attributes})" if attributes else "")


EVENTS = Command(
    "events [OPTIONS]",
    "Get real time events from the server",
    run,
    flags=[
        Flag("filter", "f", "list", "Filter output based on conditions provided", shown_kind="filter"),
        Flag("format", "", "string", "Format output using a custom template: 'json' or a Go template"),
        Flag("since", "", "string", "Show all events created since timestamp"),
        Flag("until", "", "string", "Stream events until this timestamp"),
    ],
)
