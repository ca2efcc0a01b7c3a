"""Damaged files: each is read right or refused, never otherwise. See README.md."""
