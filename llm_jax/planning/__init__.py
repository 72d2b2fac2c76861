"""What a compiled program costs, before a chip is paid for."""
