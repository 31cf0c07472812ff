# SPDX-License-Identifier: Apache-2.0
"""Looking at a running daemon: Prometheus metrics and the debug socket. Loaded only where they are configured."""
