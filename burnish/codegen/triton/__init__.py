"""Triton kernels: one op a file below kernels/, its truth in `burnish.ir`; compiled ahead of time to cubins."""
