# SPDX-License-Identifier: Apache-2.0
"""The client of containerd's gRPC API, for orlop's daemon and for the original."""

from orlop.containerd.client.client import DEFAULT_ADDRESS, DEFAULT_SNAPSHOTTER, Client

__all__ = ["DEFAULT_ADDRESS", "DEFAULT_SNAPSHOTTER", "Client"]
