"""What any program needs of devices, processes and files."""
