"""Width rules, one a file: a function of (widths, draw, progress) that returns the widths of a step.

``widths`` is the section of the config, ``draw`` a random.Random of its own for each step and seed, ``progress`` in [0, 1) how far
training is. The first width is the widest of the step, which takes the base loss; all are in [widths.min, widths.max].
"""
