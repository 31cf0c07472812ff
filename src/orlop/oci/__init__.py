# SPDX-License-Identifier: Apache-2.0
"""The OCI specifications as types: runtime, image and distribution."""
