"""``python -m weights_tools``."""

from weights_tools.cli import run

run()
