"""The train step, what surrounds it, and the loop."""
