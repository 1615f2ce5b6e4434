"""The rotations of one process: steps, loop, leases, drain."""
