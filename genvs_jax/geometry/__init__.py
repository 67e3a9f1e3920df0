"""Cameras, paths of cameras, and volume rendering: functions of arrays."""
