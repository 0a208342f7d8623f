"""What has gone wrong with ext_proc so far: every trap is found, what is near it is not."""

import pytest
from doctor_cases import IN, LISTENER, WARNING, Fine, Trap, assert_told, label

CASES: list[Trap | Fine] = [
    Trap(
        "streams-failed",
        lambda p: p.stats.update({IN + "ext_proc.streams_failed": 12, IN + "ext_proc.streams_started": 3456}),
        WARNING,
        LISTENER,
        "streams_failed 12; streams_started 3,456",
    ),
    Trap(
        "streams-failed",
        lambda p: (
            p.ext_proc.update(stat_prefix="router"),
            p.stats.update({IN + "ext_proc.router.streams_failed": 1}),
        ),
        WARNING,
        LISTENER,
        "streams_failed 1; streams_started 0",
    ),
    Fine("streams-failed", lambda p: p.stats.update({IN + "ext_proc.streams_started": 5})),
    Trap(
        "message-timeouts",
        lambda p: p.stats.update({IN + "ext_proc.message_timeouts": 4}),
        WARNING,
        LISTENER,
        "message_timeouts 4; streams_started 0",
    ),
    Fine("message-timeouts", lambda p: p.stats.update({IN + "ext_proc.message_timeouts": 0})),
    Trap(
        "failed-open",
        lambda p: p.stats.update({IN + "ext_proc.failure_mode_allowed": 4}),
        WARNING,
        LISTENER,
        "failure_mode_allowed 4; streams_started 0",
    ),
    Fine("failed-open", lambda p: p.stats.update({IN + "ext_proc.failure_mode_allowed": 0})),
    Trap(
        "mutations-refused",
        lambda p: p.stats.update(
            {IN + "ext_proc.rejected_header_mutations": 4, IN + "ext_proc.spurious_msgs_received": 1}
        ),
        WARNING,
        LISTENER,
        "rejected_header_mutations 4, spurious_msgs_received 1; streams_started 0",
    ),
    Fine("mutations-refused", lambda p: p.stats.update({IN + "ext_proc.immediate_responses_sent": 4})),
]


@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_check_says_where_and_how_much(case: Trap | Fine) -> None:
    assert_told(case)
