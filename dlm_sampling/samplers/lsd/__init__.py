"""Solvers with learned coefficients and times (LSD), and the file that holds them."""
