"""python -m ltm.cli: the command line without its script, for torchrun."""

from __future__ import annotations

import sys

from ltm.cli.main import main

sys.exit(main())
