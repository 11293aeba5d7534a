"""Base losses, one a file: a function of (student, target), both (B, D), or a class that extends LossModule."""
