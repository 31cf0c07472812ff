# SPDX-License-Identifier: Apache-2.0
"""One thin file a gRPC service: it translates requests into calls of the parts."""
