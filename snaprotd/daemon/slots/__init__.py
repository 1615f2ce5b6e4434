"""What becomes of slots: told by the clock, run, run late, tried again, skipped, counted."""
