# SPDX-License-Identifier: Apache-2.0
"""The images of the Engine API: one use case a file, over the images and content of a containerd."""
