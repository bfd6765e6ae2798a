"""What all benchmarks share: the command line, processes that take turns, random weights, and the report."""
