"""VPS.org, the first provider: its REST API."""
