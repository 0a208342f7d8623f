"""`python -m monitoring`: write the generated files beside this one."""

from __future__ import annotations

import sys
from pathlib import Path

from . import files

HERE = Path(__file__).parent


def main() -> int:
    for name, text in files.generated().items():
        (HERE / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
