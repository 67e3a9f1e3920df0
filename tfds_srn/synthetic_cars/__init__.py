"""Procedural cars, the rays that draw them and the scenes that hold them."""
