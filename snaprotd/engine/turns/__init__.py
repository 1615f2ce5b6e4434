"""Whose turn it is to hold a server off: one of a group at a time, and no more than there are requests for."""
