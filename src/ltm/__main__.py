"""python -m ltm: the command line without its script."""

from __future__ import annotations

import sys

from ltm.cli import main

sys.exit(main())
