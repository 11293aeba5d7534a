"""Regularizers, one a file: a class that extends :class:`pretrain.objective.regularization.Regularizer`."""
