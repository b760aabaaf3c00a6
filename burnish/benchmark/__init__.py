"""Measuring burnish beside others: one process each, one at a time, in turns."""
