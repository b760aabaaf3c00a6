"""The language: programs, weights as expressions, states, the burnish:: ops, text, the reference interpreter."""
