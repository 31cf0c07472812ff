# SPDX-License-Identifier: Apache-2.0
"""When images were last used: rows of dockerd's database."""

import sqlite3

_SCHEMA = """
CREATE TABLE IF NOT EXISTS image_uses (
    image_id TEXT PRIMARY KEY,
    used_at INTEGER NOT NULL
) STRICT
"""


class LastUses:
    """Nanoseconds since 1970 by image ID. Calls block as those of dockerd's Store do."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._db.execute(_SCHEMA)

    def all(self) -> dict[str, int]:
        """Every image that is known to have been used."""
        return dict(self._db.execute("SELECT image_id, used_at FROM image_uses"))

    def note(self, image_id: str, moment: int) -> None:
        """An image was used."""
        self._db.execute("INSERT OR REPLACE INTO image_uses (image_id, used_at) VALUES (?, ?)", (image_id, moment))

    def forget(self, image_id: str) -> None:
        """An image is gone."""
        self._db.execute("DELETE FROM image_uses WHERE image_id = ?", (image_id,))
