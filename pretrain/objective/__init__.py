"""The objective: losses, heads, teacher, width sampling, regularization, and the step that joins them (METHOD section 2)."""
