"""The ledger's tables, the statements about rotations and marks, and those about what is noted of the whole."""
