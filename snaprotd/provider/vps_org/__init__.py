"""VPS.org, the first provider: its REST API. Only this package speaks HTTP to it."""
