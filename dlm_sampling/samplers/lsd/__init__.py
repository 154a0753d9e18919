"""Holds solvers with learned coefficients and times (LSD), and their file."""
