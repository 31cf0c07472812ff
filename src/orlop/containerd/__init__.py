# SPDX-License-Identifier: Apache-2.0
"""The container daemon: metadata, content, snapshots and tasks behind containerd's gRPC API."""
