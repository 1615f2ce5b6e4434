"""What stands on the disk: the ledger's own files, which may be exchanged, and those beside it."""
