"""What the daemon tells people, apart from its pages."""
