"""Comparisons with a peer, each a command that prints one table; see README.md."""
