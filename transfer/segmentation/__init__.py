"""Semantic segmentation at every width, trained and evaluated by mmsegmentation."""
