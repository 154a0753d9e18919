"""Tries the library with random calls, and checks what every call must keep."""
