"""Comparisons under a name, with the page that is written from each."""
