"""Hold solvers with learned coefficients and times (LSD), and read and write their files."""
