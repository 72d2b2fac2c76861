"""What every command stands in: flags and exit codes, other processes, signals, the seconds of each stage."""
