"""The library of native kernels: built once for a machine, and called by name."""
