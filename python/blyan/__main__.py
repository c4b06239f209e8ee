"""The `blyan` command line, as `python -m blyan` and as the script that the package installs."""

import sys

from blyan import _blyan

# What a shell says of a program that Ctrl-C ended.
_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line on `arguments`, those of the process by default; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return _blyan.command_line(["blyan", *words])
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
