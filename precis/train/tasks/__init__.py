"""The tasks that come with the house, each in a file of its own name."""
