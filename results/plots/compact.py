"""matplotlib's SVG in a third of its bytes: what it says for every mark and text is said once, or needs no saying."""

from __future__ import annotations

import re
from collections import Counter

# Coordinates; not what stands in a name or in a text. A hundredth of a point is finer than any screen or press.
_LONG_NUMBER = re.compile(r"(?<=[ \"(,MLCQ])-?\d+\.\d{2,}(?=[ \"),\nLCQz])")
_STYLE = re.compile(r" style=\"([^\"]*)\"")
_NAME = re.compile(r"(?<= id=\")[mp][0-9a-f]{10}(?=\")")  # of marks and clip paths
_GROUP = re.compile(r"(</?g\b[^>]*(?<!/)>)")
_WORDY = (
    (re.compile(r"<metadata>.*?</metadata>", re.DOTALL), ""),
    (re.compile(r" transform=\"rotate\(-0 [^\"]*\""), ""),
    (re.compile(r"<g id=\"[^\"]*\">"), "<g>"),  # nothing refers to groups
    (re.compile(r">\s+<"), "><"),
)
_TAG = re.compile(r"<[^>]*>")
_IN_TAGS = ((re.compile(r" ?\n(?=[MLCQz\"])"), ""), (re.compile(r"(?<=[MLCQ]) (?=-?\d)"), ""))


def compact(svg: str) -> str:
    """The same picture: every path, mark and text where it was and as it looked."""
    for pattern, instead in _WORDY:
        svg = pattern.sub(instead, svg)
    svg = _TAG.sub(_shorter, svg)
    for place, name in enumerate(dict.fromkeys(_NAME.findall(svg))):
        svg = svg.replace(name, f"n{place}")
    return _with_classes(_without_groups(svg))


def _shorter(tag: re.Match) -> str:
    text = tag[0]
    for pattern, instead in _IN_TAGS:
        text = pattern.sub(instead, text)
    return _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), text)


def _without_groups(svg: str) -> str:
    """Without groups that have no attributes."""
    kept, whole = [], []
    for part in _GROUP.split(svg):
        if part == "</g>":
            kept.append(part if whole.pop() else "")
        elif _GROUP.fullmatch(part):
            whole.append(part != "<g>")
            kept.append(part if whole[-1] else "")
        else:
            kept.append(part)
    return "".join(kept)


def _with_classes(svg: str) -> str:
    """Styles that several elements have, as classes."""
    svg = _STYLE.sub(lambda found: found[0].replace("'", ""), svg)  # round names of fonts, which need none
    often = [style for style, count in Counter(_STYLE.findall(svg)).items() if count > 1]
    rules = "".join(f".s{place}{{{style}}}" for place, style in enumerate(often))
    names = {style: f' class="s{place}"' for place, style in enumerate(often)}
    svg = _STYLE.sub(lambda found: names.get(found[1], found[0]), svg)
    return svg.replace("</style>", f"{rules}</style>", 1)
