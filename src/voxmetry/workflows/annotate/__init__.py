"""The annotation loop: a work list, corrections that come back, a model trained on them, and whether it is taken."""
