"""Checkpoints: written, found, read, and taken over in parts."""
