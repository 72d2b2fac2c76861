"""The page a run leaves behind: what each stage did, in words, plots and samples, in one HTML file."""
