"""What has happened, and who is still to be told: the events, the outbox, and which snapshots were seen last."""
