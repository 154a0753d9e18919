"""Run the command `dlm-sampling`: generate, samplers, doctor, bench, learn."""
