"""The command line: commands parse and print; the work is done by plain functions of the library."""

from __future__ import annotations

from ltm.cli.main import main

__all__ = ["main"]
