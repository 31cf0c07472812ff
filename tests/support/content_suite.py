# SPDX-License-Identifier: Apache-2.0
"""What every content store must do: a class of tests over the fixture `store`."""

import time

import pytest
from support.storage import digest_of, put, read

from orlop.containerd.core.content import ContentStore
from orlop.errdefs import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)

# Without this label the collector of a running daemon takes what no image refers to.
ROOT = {"containerd.io/gc.root": "test"}


class ContentSuite:
    """The contract of `orlop.containerd.core.content.ContentStore`."""

    def test_write_and_read(self, store: ContentStore) -> None:
        before = time.time_ns() - 10**9
        digest = put(store, b"hello", {"a": "1", **ROOT})
        info = store.info(digest)
        assert (info.digest, info.size, info.labels) == (digest_of(b"hello"), 5, {"a": "1", **ROOT})
        assert before < info.created <= info.updated < time.time_ns() + 10**9
        assert read(store, digest) == b"hello"
        assert store.statuses() == []

    def test_ranges(self, store: ContentStore) -> None:
        digest = put(store, b"0123456789", ROOT)
        reader = store.reader(digest)
        assert reader.size == 10
        assert reader.read_at(3, 4) == b"3456"
        assert reader.read_at(8, 100) == b"89"
        reader.close()

    def test_large_blobs(self, store: ContentStore) -> None:
        data = bytes(range(256)) * 20_000  # more than one message
        digest = digest_of(data)
        writer = store.writer("large", len(data), digest)
        for start in range(0, len(data), 1 << 20):
            writer.write(data[start : start + (1 << 20)])
        writer.commit(len(data), digest, ROOT)
        assert read(store, digest) == data

    def test_an_ingest_is_resumed(self, store: ContentStore) -> None:
        writer = store.writer("ref", 10)
        writer.write(b"01234")
        status = writer.status()
        assert (status.offset, status.total) == (5, 10)
        writer.close()
        stored = store.status("ref")
        assert (stored.ref, stored.offset) == ("ref", 5)
        assert stored.started <= stored.updated
        writer = store.writer("ref", 10)
        assert writer.status().offset == 5
        assert writer.digest() == digest_of(b"01234")
        writer.write(b"56789")
        assert writer.commit(10, digest_of(b"0123456789"), ROOT).digest == digest_of(b"0123456789")
        with pytest.raises(NotFoundError):
            store.status("ref")

    def test_an_ingest_has_one_writer(self, store: ContentStore) -> None:
        writer = store.writer("ref")
        with pytest.raises(UnavailableError):
            store.writer("ref")
        writer.write(b"abc")
        writer.close()
        store.writer("ref").close()

    def test_truncate(self, store: ContentStore) -> None:
        writer = store.writer("ref")
        writer.write(b"wrong")
        writer.truncate()
        assert writer.status().offset == 0
        writer.write(b"right")
        writer.commit(5, digest_of(b"right"), ROOT)
        assert read(store, digest_of(b"right")) == b"right"

    def test_an_empty_blob(self, store: ContentStore) -> None:
        writer = store.writer("ref")
        writer.commit(0, digest_of(b""), ROOT)
        assert store.info(digest_of(b"")).size == 0

    def test_unexpected_digest(self, store: ContentStore) -> None:
        writer = store.writer("ref")
        writer.write(b"abc")
        with pytest.raises(FailedPreconditionError, match="unexpected commit digest"):
            writer.commit(3, digest_of(b"def"))
        writer.close()
        with pytest.raises(NotFoundError):
            store.info(digest_of(b"abc"))

    def test_unexpected_size(self, store: ContentStore) -> None:
        writer = store.writer("ref")
        writer.write(b"abc")
        with pytest.raises(FailedPreconditionError, match="size"):
            writer.commit(4)
        writer.close()
        with pytest.raises(NotFoundError):
            store.info(digest_of(b"abc"))
        assert store.status("ref").offset == 3

    def test_what_is_there_is_not_written_again(self, store: ContentStore) -> None:
        digest = put(store, b"abc", ROOT)
        with pytest.raises(AlreadyExistsError):
            store.writer("ref", 3, digest)
        writer = store.writer("ref")
        writer.write(b"abc")
        with pytest.raises(AlreadyExistsError):
            writer.commit(3, digest)
        writer.close()
        assert store.statuses() == []
        assert read(store, digest) == b"abc"

    def test_abort(self, store: ContentStore) -> None:
        writer = store.writer("ref")
        writer.write(b"abc")
        writer.close()
        store.abort("ref")
        with pytest.raises(NotFoundError):
            store.abort("ref")
        with pytest.raises(NotFoundError):
            store.status("ref")
        writer = store.writer("ref")
        assert writer.status().offset == 0
        writer.close()

    def test_statuses(self, store: ContentStore) -> None:
        for ref in ("one", "two"):
            store.writer(ref).close()
        assert sorted(status.ref for status in store.statuses()) == ["one", "two"]
        assert [status.ref for status in store.statuses(["ref==two"])] == ["two"]
        assert [status.ref for status in store.statuses(["ref~=^o"])] == ["one"]

    def test_labels(self, store: ContentStore) -> None:
        digest = put(store, b"abc", {"a": "1", "b": "2", **ROOT})
        created = store.info(digest).created
        assert store.update(digest, {"a": "3"}, ["labels.a"]).labels == {"a": "3", "b": "2", **ROOT}
        store.update(digest, {"b": ""}, ["labels.b"])  # an empty value removes
        assert store.info(digest).labels == {"a": "3", **ROOT}
        info = store.update(digest, {"c": "4", **ROOT}, ["labels"])
        assert info.labels == {"c": "4", **ROOT}
        assert info.created == created < info.updated
        with pytest.raises(InvalidArgumentError):
            store.update(digest, {}, ["size"])
        with pytest.raises(InvalidArgumentError):
            store.update(digest, {"k" * 100: "v" * 4096}, ["labels"])
        with pytest.raises(NotFoundError):
            store.update(digest_of(b"absent"), {}, ["labels"])

    def test_walk(self, store: ContentStore) -> None:
        one = put(store, b"one", {"colour": "red", **ROOT})
        two = put(store, b"two", ROOT)
        assert sorted(info.digest for info in store.walk()) == sorted((one, two))
        assert [info.digest for info in store.walk([f"digest=={one}"])] == [one]
        assert [info.digest for info in store.walk(["labels.colour!=red"])] == [two]
        assert [info.digest for info in store.walk(['labels."colour"==red'])] == [one]
        with pytest.raises(InvalidArgumentError):
            list(store.walk(["labels.colour=red"]))

    def test_delete(self, store: ContentStore) -> None:
        digest = put(store, b"abc", ROOT)
        store.delete(digest)
        with pytest.raises(NotFoundError):
            store.delete(digest)
        with pytest.raises(NotFoundError):
            store.info(digest)
        with pytest.raises(NotFoundError):
            store.reader(digest).read_at(0, 1)
        put(store, b"abc", ROOT)

    def test_malformed_names(self, store: ContentStore) -> None:
        with pytest.raises(InvalidArgumentError):
            store.info("sha256:../../etc/passwd")
        with pytest.raises(InvalidArgumentError):
            store.delete("md5:d41d8cd98f00b204e9800998ecf8427e")
        with pytest.raises(InvalidArgumentError):
            store.writer("")
