"""The file: YAML to `Config`, or every mistake in it with its line."""
