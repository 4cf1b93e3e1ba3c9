"""What a run leaves behind: records, logs, and files that appear whole or not at all."""

from zolab.records.record import (
    FREED,
    begun_in,
    commit,
    environment,
    give_back_memory,
    kept_records,
    load_record,
    peak_memory,
    ready_for_record,
    reset_peak_memory,
    save_record,
)

__all__ = [
    "FREED",
    "begun_in",
    "commit",
    "environment",
    "give_back_memory",
    "kept_records",
    "load_record",
    "peak_memory",
    "ready_for_record",
    "reset_peak_memory",
    "save_record",
]
