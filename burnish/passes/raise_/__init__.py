"""Captured -> raised: attention, norms, rotary embeddings and activations by their names."""
