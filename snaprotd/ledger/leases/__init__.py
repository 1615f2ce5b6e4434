"""Whose a rotation is: what is seen of leases, and how what nobody holds any more is taken over."""
