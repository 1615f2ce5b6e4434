"""Durable memory: open rotations with their leases, history, how far each schedule was seen."""
