"""Import this to have mmsegmentation's parts and all that the project adds to them by name, for configs that use the names."""

from mmseg.utils import register_all_modules

from transfer.segmentation import backbone, evaluation  # noqa: F401
from transfer.segmentation.data import labels, layouts, loaders  # noqa: F401

register_all_modules(init_default_scope=True)
