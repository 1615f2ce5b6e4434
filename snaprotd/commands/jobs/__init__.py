"""What the commands have done: one rotation, the account read, one snapshot restored or deleted."""
