# SPDX-License-Identifier: Apache-2.0
"""The network service's tables in dockerd's SQLite file."""

import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec

from orlop.dockerd.network.types import Endpoint, Network

_SCHEMA = """
CREATE TABLE IF NOT EXISTS networks (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    record BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS endpoints (
    id TEXT PRIMARY KEY,
    network_id TEXT NOT NULL REFERENCES networks (id),
    container_id TEXT NOT NULL,
    address TEXT,
    address6 TEXT,
    record BLOB NOT NULL,
    UNIQUE (network_id, address),
    UNIQUE (network_id, container_id)
);
CREATE INDEX IF NOT EXISTS endpoints_by_container ON endpoints (container_id);
"""
_INDEX6 = "CREATE UNIQUE INDEX IF NOT EXISTS endpoints_by_address6 ON endpoints (network_id, address6)"


def init_schema(connection: sqlite3.Connection) -> None:
    """Create the tables of this package where they do not exist yet."""
    connection.executescript(_SCHEMA)
    columns = {row[1] for row in connection.execute("PRAGMA table_info(endpoints)")}
    with connection:
        if "address6" not in columns:  # the file of an earlier version
            connection.execute("ALTER TABLE endpoints ADD COLUMN address6 TEXT")
            for identity, record in connection.execute("SELECT id, record FROM endpoints").fetchall():
                address = msgspec.json.decode(record, type=Endpoint).address6 or None
                connection.execute("UPDATE endpoints SET address6 = ? WHERE id = ?", (address, identity))
        connection.execute(_INDEX6)


class NetworkStore:
    """Networks and endpoints as rows; every method is one transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._network = msgspec.json.Decoder(Network)
        self._endpoint = msgspec.json.Decoder(Endpoint)

    def networks(self) -> list[Network]:
        """All networks, in the order in which they were made."""
        return [self._network.decode(row[0]) for row in self._all("SELECT record FROM networks ORDER BY rowid")]

    def put_network(self, network: Network) -> None:
        """Insert or replace a network."""
        with self._connection:
            self._connection.execute(
                "INSERT INTO networks (id, name, record) VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET name = excluded.name, record = excluded.record",
                (network.id, network.name, msgspec.json.encode(network)),
            )

    def delete_network(self, network_id: str) -> None:
        """Remove a network and what is left of its endpoints; no error if there is none."""
        with self._connection:
            self._connection.execute("DELETE FROM endpoints WHERE network_id = ?", (network_id,))
            self._connection.execute("DELETE FROM networks WHERE id = ?", (network_id,))

    def endpoints_in(self, network_id: str) -> list[Endpoint]:
        """The endpoints of one network."""
        rows = self._all("SELECT record FROM endpoints WHERE network_id = ? ORDER BY rowid", network_id)
        return [self._endpoint.decode(row[0]) for row in rows]

    def endpoints(self) -> list[Endpoint]:
        """All endpoints."""
        return [self._endpoint.decode(row[0]) for row in self._all("SELECT record FROM endpoints ORDER BY rowid")]

    def ready_endpoints(self) -> list[Endpoint]:
        """All endpoints, without those that are being made or taken away."""
        return [endpoint for endpoint in self.endpoints() if endpoint.ready]

    def endpoints_of(self, container_id: str) -> list[Endpoint]:
        """The endpoints of one container."""
        rows = self._all("SELECT record FROM endpoints WHERE container_id = ? ORDER BY rowid", container_id)
        return [self._endpoint.decode(row[0]) for row in rows]

    def addresses(self, network_id: str) -> set[str]:
        """The addresses in use in a network."""
        four = self._all("SELECT address FROM endpoints WHERE network_id = ? AND address NOT NULL", network_id)
        six = self._all("SELECT address6 FROM endpoints WHERE network_id = ? AND address6 NOT NULL", network_id)
        return {row[0] for row in (*four, *six)}

    def put_endpoint(self, endpoint: Endpoint) -> None:
        """Insert or replace an endpoint."""
        with self._connection:
            self._connection.execute(
                "INSERT INTO endpoints (id, network_id, container_id, address, address6, record) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
                "address = excluded.address, address6 = excluded.address6, record = excluded.record",
                (
                    endpoint.id,
                    endpoint.network_id,
                    endpoint.container_id,
                    endpoint.address or None,
                    endpoint.address6 or None,
                    msgspec.json.encode(endpoint),
                ),
            )

    def put_endpoints(self, endpoints: Iterable[Endpoint]) -> None:
        """Replace the records of endpoints, all or none."""
        with self._connection:
            for endpoint in endpoints:
                self._connection.execute(
                    "UPDATE endpoints SET record = ? WHERE id = ?", (msgspec.json.encode(endpoint), endpoint.id)
                )

    def delete_endpoint(self, endpoint_id: str) -> None:
        """Remove an endpoint; no error if there is none."""
        with self._connection:
            self._connection.execute("DELETE FROM endpoints WHERE id = ?", (endpoint_id,))

    def _all(self, query: str, *values: str) -> list[tuple[Any]]:
        return self._connection.execute(query, values).fetchall()
