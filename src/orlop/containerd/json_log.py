# SPDX-License-Identifier: Apache-2.0
"""Log lines as JSON objects, with the field names of containerd's."""

import json
import logging
import time


class JsonFormatter(logging.Formatter):
    """One line a record: time (RFC 3339, UTC), level, module, msg, and error where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = {
            "level": record.levelname,
            "module": record.name,
            "msg": record.getMessage(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
