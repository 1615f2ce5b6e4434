"""The text of a file as nodes that keep their places: what YAML reads, before anybody judges it."""
