"""What several kernels share: random numbers, tiles, tables on the device, launch records."""
