"""The three networks as Flax Linen leaves, and `pipeline`, where they meet."""
