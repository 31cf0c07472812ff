# SPDX-License-Identifier: Apache-2.0
"""The suites over every implementation: in process, and over gRPC at our daemon and the original."""

import pytest
from support.content_suite import ContentSuite
from support.snapshotter_suite import SnapshotterSuite
from support.storage import LocalStorage

from orlop.containerd.core.content import ContentStore
from orlop.containerd.core.namespaces import Scope
from orlop.containerd.core.snapshots import Snapshotter

pytestmark = pytest.mark.root


class TestOverlay(SnapshotterSuite):
    """The overlay driver."""

    @pytest.fixture
    def snapshotter(self, local: LocalStorage, scope: Scope) -> Snapshotter:
        return local.storage.snapshotters["overlayfs"].bind(scope)


class TestNative(SnapshotterSuite):
    """The native driver, which copies."""

    @pytest.fixture
    def snapshotter(self, local: LocalStorage, scope: Scope) -> Snapshotter:
        return local.storage.snapshotters["native"].bind(scope)


class TestRemoteSnapshotter(SnapshotterSuite):
    """The service of a running daemon."""

    @pytest.fixture
    def snapshotter(self, remote_snapshotter: Snapshotter) -> Snapshotter:
        return remote_snapshotter


class TestContent(ContentSuite):
    """The local store under its metadata."""

    @pytest.fixture
    def store(self, local: LocalStorage, scope: Scope) -> ContentStore:
        return local.storage.content.bind(scope)


class TestRemoteContent(ContentSuite):
    """The service of a running daemon."""

    @pytest.fixture
    def store(self, remote_content: ContentStore) -> ContentStore:
        return remote_content
