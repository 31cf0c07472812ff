# SPDX-License-Identifier: Apache-2.0
"""Whether and when a container that ended is started again: pure."""

from orlop.engine.types import RestartPolicy

_FIRST_DELAY = 0.1
_LONGEST_DELAY = 60.0
_RAN_WELL = 10.0
_MINDS_HEALTH = "+unhealthy"


def base_name(policy: RestartPolicy) -> str:
    """The policy without what it says about health: one of Docker's names."""
    return policy.name.removesuffix(_MINDS_HEALTH)


def minds_health(policy: RestartPolicy) -> bool:
    """Whether it also restarts a container that runs but is unhealthy (`always+unhealthy`; not in Docker)."""
    return policy.name.endswith(_MINDS_HEALTH)


def wants_restart(
    policy: RestartPolicy, exit_code: int, *, by_user: bool, attempts: int, unhealthy: bool = False
) -> bool:
    """Whether the policy starts the container again after it ended.

    `by_user`: a user stopped it; `unhealthy`: that is how it ended, whatever its exit code.
    """
    if by_user:
        return False
    name = base_name(policy)
    if name in ("always", "unless-stopped"):
        return True
    if name == "on-failure" and (exit_code != 0 or (unhealthy and minds_health(policy))):
        return not policy.maximum_retry_count or attempts < policy.maximum_retry_count
    return False


def wants_start(policy: RestartPolicy, exit_code: int, *, by_user: bool, was_running: bool, attempts: int) -> bool:
    """Whether the policy starts the container when the daemon starts and finds it not running.

    `always` also starts what a user stopped, as Docker's does; the others what ran (or was about to) when the
    daemon saw it last.
    """
    if base_name(policy) == "always":
        return True
    if base_name(policy) == "unless-stopped":
        return not by_user
    return was_running and wants_restart(policy, exit_code, by_user=by_user, attempts=attempts)


def next_delay(previous: float, ran: float) -> float:
    """Seconds to wait: 0.1, doubled at each failure up to a minute, from the beginning after a run of 10 s."""
    if ran >= _RAN_WELL or previous == 0:
        return _FIRST_DELAY
    return min(previous * 2, _LONGEST_DELAY)
