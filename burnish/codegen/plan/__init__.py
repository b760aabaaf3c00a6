"""A step program as launches, for any table of host functions: knows no language that kernels are written in."""
