"""The commands by what they are for: `service` runs it, `look` only reads, `act` changes something."""
