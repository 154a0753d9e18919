"""What several samplers share: grids, orders, quotas, hitting times, kept laws."""
