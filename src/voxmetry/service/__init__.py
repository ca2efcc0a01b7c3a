"""The service behind `voxmetry serve`: jobs that survive a kill, and the protocols that clients speak."""
