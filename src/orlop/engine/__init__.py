# SPDX-License-Identifier: Apache-2.0
"""The Engine API as types and a client, shared by dockerd and the command line."""
