"""The addresses and the pages, made from a report."""
