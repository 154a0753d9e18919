"""Hold the parts that kernels share: random numbers, tiles, tables on the device, records."""
