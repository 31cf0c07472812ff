# SPDX-License-Identifier: Apache-2.0
"""`orlop daemon`: holds the API socket, starts the daemons when they are needed and again when they crash."""
