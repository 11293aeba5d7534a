"""Detection and instance segmentation with detectron2, at every width of a checkpoint.

Whatever is imported from here, detectron2 gets the aids that it needs before it is imported itself.
"""

from transfer.detection import aids as _aids

_aids.give()

DATASETS = ("digits", "voc", "coco")
# DETECTOR_NECK is for any network, DETECTOR_NETWORK_NECK for that one only.
MODELS = ("faster_rcnn_fpn", "mask_rcnn_fpn", "faster_rcnn_c4", "mask_rcnn_c4", "faster_rcnn_r18_fpn", "faster_rcnn_r50_fpn",
          "faster_rcnn_r50_c4", "mask_rcnn_r18_fpn", "mask_rcnn_r50_fpn", "mask_rcnn_r50_c4", "faster_rcnn_mbv2_fpn",
          "mask_rcnn_mbv2_fpn", "faster_rcnn_vit_fpn", "mask_rcnn_vit_fpn")
