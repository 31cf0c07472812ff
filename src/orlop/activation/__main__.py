# SPDX-License-Identifier: Apache-2.0
"""`python -m orlop.activation` is `orlop daemon`."""

import sys

from orlop.activation.cli import run

sys.exit(run(sys.argv[1:]))
