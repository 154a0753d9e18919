"""Orders of convergence of the solvers by exact propagation."""
