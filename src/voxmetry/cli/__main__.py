"""`python -m voxmetry.cli`."""

from voxmetry.cli import main

main()
