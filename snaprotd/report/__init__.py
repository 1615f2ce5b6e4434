"""Facts as JSON, and problems as sentences."""
