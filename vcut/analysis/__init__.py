"""Statements about a model: the audit of its weights, what it costs, and the tables of the paper."""
