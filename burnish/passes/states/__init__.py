"""Raised -> incremental: positions, the choice of logits, and what a step remembers."""
