"""Puts the parts together: the only room that sees the configuration, the provider, the ledger and the observers."""
