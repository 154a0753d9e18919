"""Start the command line, for `python -m dlm_sampling` and the command `dlm-sampling`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; an interrupt during its import or its end is as quiet as any other."""
    try:
        from dlm_sampling.cli import app, exits
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    try:
        app.main()
    finally:  # Python's own end is not disturbed either
        exits.ignore_interrupts()


if __name__ == "__main__":
    main()
