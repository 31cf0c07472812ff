# SPDX-License-Identifier: Apache-2.0
"""A gRPC server for asyncio: no threads, and a few dozen microseconds a call. See `server.Server`."""
