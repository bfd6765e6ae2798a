"""Scripts that each answer one question about the paper: ``python -m experiments.row_order``."""
