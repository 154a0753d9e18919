"""Start the command line, for `python -m dlm_sampling` and the command `dlm-sampling`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; an interrupt during its import ends as quietly as a later one."""
    try:
        from dlm_sampling.cli import app
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    app.main()


if __name__ == "__main__":
    main()
