# SPDX-License-Identifier: Apache-2.0
"""The messages and services of containerd, its shims and ttrpc, generated from the .proto files beside them."""
