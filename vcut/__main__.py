"""``python -m vcut`` is the ``vcut`` command."""

from vcut.cli import run

if __name__ == "__main__":
    run()
