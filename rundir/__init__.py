"""What a run directory holds and how it is read: shared by all rooms. Imports no other room, and no torch."""

__version__ = "0.2.0"  # of the project; CHANGELOG.md and CITATION.cff say the same
