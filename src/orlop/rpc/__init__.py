# SPDX-License-Identifier: Apache-2.0
"""Remote calls between the layers: ttrpc, gRPC, error translation, the stdcopy framing."""
