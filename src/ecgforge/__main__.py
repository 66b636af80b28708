"""Where `ecgforge` starts: in a warm process where there is one, else here."""

from __future__ import annotations

import sys

from ecgforge.pipeline import warm


def main() -> None:
    code = warm.run(sys.argv[1:])
    if code is None:
        from ecgforge.cli import main as command_line

        command_line()
    sys.exit(code)


if __name__ == "__main__":
    main()
