# SPDX-License-Identifier: Apache-2.0
"""Names, labels, references and their garbage, in SQLite."""
