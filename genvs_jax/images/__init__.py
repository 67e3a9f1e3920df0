"""Scores, grids and files of images."""
