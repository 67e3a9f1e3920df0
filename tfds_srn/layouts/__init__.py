"""Layouts in which scenes come, each read into the same `scenes.Scene`."""
