"""The commands `dlm-sampling eval ...`, which are also `python -m dlm_eval ...`."""
