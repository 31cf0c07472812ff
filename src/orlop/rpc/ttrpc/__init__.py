# SPDX-License-Identifier: Apache-2.0
"""ttrpc: protobuf calls over a Unix socket, as containerd and its shims speak it.

    frame     the 10-byte header and the incremental decoder
    methods   request and response types by service descriptor: there are no generated stubs
    server    a synchronous server for a selector loop (the shim)
    client    a blocking client, one call at a time
    aio       asyncio client and server (containerd)

A connection starts without a handshake. Each call is one request frame and one response frame that share an odd
stream id; responses come in any order.
"""
