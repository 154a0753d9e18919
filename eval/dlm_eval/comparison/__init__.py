"""Samplers side by side on a task: measurements, a journal of them, and the pages."""
