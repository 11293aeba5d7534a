"""What a run directory holds and how it is read: shared by all rooms. Imports no other room, and no torch."""
