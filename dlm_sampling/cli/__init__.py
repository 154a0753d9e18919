"""The command `dlm-sampling`."""
