"""PyTorch weights -> an ordinary checkpoint, or arrays for the metrics."""
