"""Claims of grids: :mod:`schema` reads and checks them, :mod:`effects` measures what they compare, :mod:`judging` tests it,
:mod:`rendering` says what came of it, :mod:`sources` finds the claims that belong to some runs.
"""
