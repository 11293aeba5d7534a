"""Universally slimmable self-supervised pretraining (US3L): config in, one run directory out."""
