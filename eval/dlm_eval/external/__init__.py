"""Real models that are shipped inside Python packages: found, converted, measured."""
