"""`python -m dlm_eval ...` is `dlm-sampling eval ...`."""

import sys

from dlm_sampling.__main__ import main

sys.argv.insert(1, "eval")
main()
