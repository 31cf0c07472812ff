# SPDX-License-Identifier: Apache-2.0
"""How patient tests are: deadlines are for a machine of usual speed, which an emulated one (`tests/vm`) is not."""

import os

PACE = float(os.environ.get("ORLOP_TEST_PACE", "1"))
"""Every deadline is this many times as long."""
