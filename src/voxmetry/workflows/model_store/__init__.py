"""The user's folder of models: fetched, unpacked, checked and installed, whole or not at all."""
