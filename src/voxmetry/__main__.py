"""`python -m voxmetry`."""

from voxmetry.cli import main

main()
