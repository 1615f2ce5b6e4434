"""`python -m snaprotd` is the command `snaprotd`."""

from snaprotd.cli import main

main()
