# SPDX-License-Identifier: Apache-2.0
"""HTTP/2 (RFC 9113) as far as a server of gRPC needs it: frames, header blocks, streams, flow control."""
