"""What learned solvers (LSD) gain, measured."""
