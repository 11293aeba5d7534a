"""Data of detection: ``voc`` and ``coco`` read the layouts, ``faults`` gathers what is wrong, ``sets`` combines them,
``mapper`` reads what detectron2's networks are given."""

from transfer.detection.data.sets import VOC_CLASSES, DetectionData, Split, load

__all__ = ["VOC_CLASSES", "DetectionData", "Split", "load"]
