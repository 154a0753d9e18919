"""Tasks that samplers are compared on: held-out books, 4x4 sudoku."""
