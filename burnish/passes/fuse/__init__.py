"""Fewer and larger operations."""
