"""Import this to have mmsegmentation's parts and all that the project adds to them by name, for configs that use the names."""

from mmseg.utils import register_all_modules

from transfer.segmentation import backbone, data, labels, layouts, metric  # noqa: F401

register_all_modules(init_default_scope=True)
