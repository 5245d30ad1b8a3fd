"""`python -m precis.cli`, for where the command itself is not on the path."""

from precis.cli import main

main()
