"""The nouns, the rules and the machine: what decides."""
