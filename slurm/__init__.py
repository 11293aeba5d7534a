"""Where experiments run. This room knows callables and directories, and nothing of the method."""
