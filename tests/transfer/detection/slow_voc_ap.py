"""VOC's average precision, written plainly: one class, one threshold, loops."""

from __future__ import annotations


def overlap(a, b) -> float:
    """Intersection over union of two boxes (left, top, right, bottom) in VOC's pixels: both ends belong to a box."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def average_precision(truth: dict[str, list], found: list[tuple], threshold: float, eleven_points: bool) -> float:
    """``truth``: boxes by image; ``found``: (image, score, box) of each prediction.

    Each true box may be found once, by the best-scored prediction whose best overlap it is.
    """
    taken, hits = set(), []
    for image, _, box in sorted(found, key=lambda entry: -entry[1]):
        overlaps = [overlap(box, other) for other in truth[image]]
        best = max(range(len(overlaps)), key=overlaps.__getitem__) if overlaps else None
        hit = best is not None and overlaps[best] > threshold and (image, best) not in taken
        if hit:
            taken.add((image, best))
        hits.append(hit)
    objects = sum(map(len, truth.values()))
    points = []
    for count in range(1, len(hits) + 1):
        points.append((sum(hits[:count]) / objects, sum(hits[:count]) / count))
    if eleven_points:
        return sum(max((p for r, p in points if r >= step / 10 - 1e-12), default=0.0) for step in range(11)) / 11
    area, before = 0.0, 0.0
    for recall in sorted({r for r, _ in points}):
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return area
