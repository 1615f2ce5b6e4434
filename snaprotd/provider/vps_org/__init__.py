"""VPS.org, the first provider: its REST API. Nothing outside this package knows HTTP to it."""
