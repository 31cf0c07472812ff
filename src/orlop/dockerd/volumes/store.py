# SPDX-License-Identifier: Apache-2.0
"""The rows of volumes in dockerd's database."""

import sqlite3

SCHEMA = """
CREATE TABLE IF NOT EXISTS volumes (
    name TEXT PRIMARY KEY,
    driver TEXT NOT NULL,
    created_at TEXT NOT NULL,
    labels TEXT NOT NULL,
    options TEXT NOT NULL,
    anonymous INTEGER NOT NULL,
    state TEXT NOT NULL
) STRICT
"""


def init_schema(connection: sqlite3.Connection) -> None:
    """Create the table of volumes where it is missing. To be called once, at the daemon's start."""
    connection.execute(SCHEMA)
