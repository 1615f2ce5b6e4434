"""The commands by what they are for: `service` runs it, `look` only reads, `act` changes something.

What opens the ledger is imported by the command that does: its libraries take as long to load as all others together,
and a shell that completes a word waits for them.
"""
