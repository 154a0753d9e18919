"""Hold the parts that several samplers share: grids, orders, quotas, hitting times, kept laws."""
