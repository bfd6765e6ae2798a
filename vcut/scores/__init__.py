"""Scores of the clips of a sweep, and the page that shows them."""
