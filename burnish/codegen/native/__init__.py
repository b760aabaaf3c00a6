"""CPUs: the step program as launches of our own kernels."""
