"""The replicas that share a ledger, as one of them takes part: what it writes of itself and sees of the others."""
