"""Checkpoints: what a file holds, whoever wrote it, and the encoder that becomes of it."""
