"""Write requirements/lock.txt: one version of everything, for Python 3.10 and newer on any platform.

Left out are torch and the libraries of its CUDA builds, since requirements/torch.txt pins it and pip takes the build
that suits the machine, and pip, which every environment brings.

    python tools/lock.py  # the newest versions within pyproject's bounds
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).parent.parent / "requirements"
HEADER = "# Written by `make lock`; torch is in torch.txt.\n"
LEFT_OUT = re.compile(r"(pip|torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")

COMPILE = (
    "pip compile ../pyproject.toml build.in --constraint torch.txt --extra dev --universal --python-version 3.10"
    " --upgrade --no-header --no-annotate --quiet"
)


def main() -> None:
    compiled = uv_output(COMPILE.split())
    lines = [line for line in compiled.splitlines(keepends=True) if not LEFT_OUT.match(line)]
    (REQUIREMENTS / "lock.txt").write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"{len(lines)} packages in {REQUIREMENTS / 'lock.txt'}")


def uv_output(arguments: list[str]) -> str:
    command = [sys.executable, "-m", "uv", *arguments]
    return subprocess.run(command, cwd=REQUIREMENTS, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
