"""Invert any image classifier."""
