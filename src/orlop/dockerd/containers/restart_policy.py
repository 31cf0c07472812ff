# SPDX-License-Identifier: Apache-2.0
"""Whether and when a container that ended is started again: pure."""

from orlop.engine.types import RestartPolicy

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 60.0
_RAN_WELL = 10.0


def wants_restart(policy: RestartPolicy, exit_code: int, *, by_user: bool, attempts: int) -> bool:
    """Whether the policy starts the container again after it ended; `by_user`: a user stopped it."""
    if by_user:
        return False
    if policy.name in ("always", "unless-stopped"):
        return True
    if policy.name == "on-failure" and exit_code != 0:
        return not policy.maximum_retry_count or attempts < policy.maximum_retry_count
    return False


def wants_start(policy: RestartPolicy, exit_code: int, *, by_user: bool, was_running: bool, attempts: int) -> bool:
    """Whether the policy starts the container when the daemon starts and finds it not running.

    `always` also starts what a user stopped, as Docker's does; the others what ran (or was about to) when the
    daemon saw it last.
    """
    if policy.name == "always":
        return True
    if policy.name == "unless-stopped":
        return not by_user
    return was_running and wants_restart(policy, exit_code, by_user=by_user, attempts=attempts)


def next_delay(previous: float, ran: float) -> float:
    """Seconds to wait: 0.1, doubled at each failure up to a minute, from the beginning after a run of 10 s."""
    if ran >= _RAN_WELL or previous == 0:
        return _FIRST_DELAY
    return min(previous * 2, _LONGEST_DELAY)
