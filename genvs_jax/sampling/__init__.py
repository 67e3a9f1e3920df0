"""Views of scenes and rollouts along paths, and their files."""
