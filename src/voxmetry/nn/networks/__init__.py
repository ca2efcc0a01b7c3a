"""The networks: which one a specification names, and how it is built."""
