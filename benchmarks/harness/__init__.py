"""The harness of all benchmarks: the command line, processes that take turns, random weights, and the report."""
