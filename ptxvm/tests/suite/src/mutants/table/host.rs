//! What the host forgets to order.

use super::{Mutant, host};
use crate::mutants::scenarios::*;

pub(super) const HOST: &[Mutant] = &[
    host("event_not_awaited", EVENT_BETWEEN_STREAMS, "no wait for the event", "race-streams"),
    host("event_recorded_too_early", EVENT_AFTER_THE_WORK, "the event is recorded before the work", "race-streams"),
    host(
        "default_stream_not_awaited",
        NON_BLOCKING_STREAM,
        "no synchronize before the non-blocking stream",
        "race-streams",
    ),
    host("copied_on_another_stream", COPY_ON_ANOTHER_STREAM, "no wait before the copy", "race-streams"),
    host("cleared_on_another_stream", MEMSET_ON_ANOTHER_STREAM, "no wait before the memset", "race-streams"),
    host("graph_not_awaited", GRAPH_AND_STREAM, "no synchronize after the graph", "race-streams"),
    host("graph_branch_forked_too_early", GRAPH_BRANCHES, "the branch waits for the fork only", "race-streams"),
    host("pinned_buffer_reused", PINNED_REUSED, "no wait before the copy into the same pinned buffer", "race-streams"),
    host("result_read_without_synchronize", READ_BACK, "no synchronize before the copy to the host", "host-race"),
    host("input_overwritten_while_in_use", OVERWRITE, "no synchronize before the copy to the device", "host-race"),
    host(
        "pinned_result_used_too_early",
        PINNED_TOO_EARLY,
        "no synchronize before the host uses the pinned buffer",
        "host-race",
    ),
];
