"""``python -m dagbump``."""

from dagbump.cli import app

app(prog_name="dagbump")
