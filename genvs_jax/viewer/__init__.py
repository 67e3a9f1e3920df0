"""A page in the browser: renders that follow the camera, samples at rest."""
