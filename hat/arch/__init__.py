"""Architectures as values: no torch below this folder."""
