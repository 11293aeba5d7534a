"""Statistics over seeds. The seed is the unit: a run's score at one seed is one observation, whatever the number of images.

:mod:`intervals` of means, proportions and correlations; :mod:`sequential` tests of paired differences that may be looked at after
every seed, :mod:`proportions` the same of shares of seeds; :mod:`families` of tests.
"""
