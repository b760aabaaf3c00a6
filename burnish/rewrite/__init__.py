"""The engine of rules: patterns, matching, replacement, refusals with their reasons."""
