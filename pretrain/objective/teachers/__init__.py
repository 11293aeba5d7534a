"""Teachers, one a file: a class that extends :class:`pretrain.objective.teaching.Guide`."""
