"""What a policy will leave behind: years of rotations foreseen, in figures, words and drawings."""
