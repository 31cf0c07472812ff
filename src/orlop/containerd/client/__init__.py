# SPDX-License-Identifier: Apache-2.0
"""The client of containerd's gRPC API, for orlop's daemon and for the original."""
