"""Records of scenes to batches, and pictures of the user's own."""
