# SPDX-License-Identifier: Apache-2.0
"""Checkpoint and restore of containers by way of CRIU (criu(8)), spoken to over its RPC protocol.

`wire` encodes messages, `session` is one conversation with one criu process, `dump` and `restore` say what is to
be done about a container.
"""
