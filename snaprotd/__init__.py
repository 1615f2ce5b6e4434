"""Rotating snapshots of VPS.org servers: nothing lost, no server left off, nothing silent."""

__version__ = "0.1.0"
