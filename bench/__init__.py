"""What snaprotd costs, measured beside programs that do the same work: `make bench`. Nothing imports this."""
