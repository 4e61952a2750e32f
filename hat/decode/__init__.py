"""Beam search, corpus translation and scoring."""
