"""Its life: recover, schedule, watch, reload, stop."""
