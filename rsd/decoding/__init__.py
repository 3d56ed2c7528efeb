"""Decoding of residual codes, coarse to fine, with and without speculation (DESIGN 4 to 6)."""
