"""What `voxmetry models quantise` does where nothing else is asked for, for the verb and what stands behind it."""

WINDOWS = 32
"""Windows that a network is calibrated on: activations of more move the result less than the choice of images."""
LEAST_DICE = 0.99
"""The Dice with the full run in float32 that each structure keeps."""
LEAST_ML = 1.0
"""Smaller structures are shown, and refuse nothing: a few voxels at their surface move Dice by hundredths."""
