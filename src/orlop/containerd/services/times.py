# SPDX-License-Identifier: Apache-2.0
"""Times between the metadata (nanoseconds since the epoch) and the API (Timestamp)."""

from google.protobuf.timestamp_pb2 import Timestamp


def to_timestamp(nanoseconds: int) -> Timestamp:
    """Nanoseconds since the epoch as a message."""
    seconds, nanos = divmod(nanoseconds, 10**9)
    return Timestamp(seconds=seconds, nanos=nanos)


def from_timestamp(timestamp: Timestamp) -> int:
    """A message as nanoseconds since the epoch."""
    return timestamp.seconds * 10**9 + timestamp.nanos
