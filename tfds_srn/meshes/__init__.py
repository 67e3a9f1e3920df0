"""Scenes rendered from 3D models: load, cast rays, write in SRN layout."""
