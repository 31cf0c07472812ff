# SPDX-License-Identifier: Apache-2.0
"""The swap matrix: one set of questions to every pair of layers of which one is ours and one the original's.

engine   what a cell of the matrix can be asked
ctr      cells whose client is ctr or orlop-ctr
docker   cells whose client is docker or orlop
podman   podman on orlop-runc
cells    the matrix itself
"""
