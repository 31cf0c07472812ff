# SPDX-License-Identifier: Apache-2.0
"""The supervisor with stubs for its daemons: `stub_supervisor.py RUN_DIR DATA_ROOT LOG_DIR`."""

import os
import sys

from orlop.activation import components, main
from orlop.activation.layout import Layout

STUB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stub_daemon.py")
STOP_SECONDS = 4.0


def stub(component: components.Component, directory: str) -> components.Component:
    """The component with a stub for its program."""
    argv = (sys.executable, "-S", STUB, component.name, directory)
    return component._replace(argv=argv, stop_seconds=STOP_SECONDS, lock="")


if __name__ == "__main__":
    layout = Layout(*sys.argv[1:4])
    sys.exit(main.serve(layout, tuple(stub(each, layout.data_root) for each in components.table(layout))))
