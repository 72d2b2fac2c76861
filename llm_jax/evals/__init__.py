"""Measuring a checkpoint: rates with intervals, bits per byte, pass@k, the map of abilities."""
