"""A compacted picture has the same shapes, marks and texts, each in its place and style; several processes draw the same."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from functools import partial

import pytest
from matplotlib.figure import Figure

from results import output
from results.plots import drawing
from results.plots.compact import compact

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"


def picture() -> Figure:
    with drawing.style():
        figure = Figure(figsize=(5, 3))
        axes = figure.subplots(1, 2)
        axes[0].errorbar([1, 2, 3], [1.23456, 4, 9], yerr=[0.1, 0.2, 0.3], label='Spearman\'s <ρ> & "others"', marker="o")
        axes[0].fill_between([1, 2, 3], [0, 1, 2], [2, 3, 4], alpha=0.2)
        axes[0].legend()
        axes[1].imshow([[0.1, 0.2], [0.3, 0.4]])
        axes[1].set_xlabel("M 1.23456 L 2.34567", rotation=30)
        axes[0].set_xscale("log")
    return figure


def leaves(svg: str) -> list:
    """Every drawn element: kind, style, clip path, shape or place in hundredths of a point, what it shows, and text."""
    root = ElementTree.fromstring(svg)
    rules = dict(re.findall(r"\.(s\d+)\{([^}]*)\}", svg))
    by_id = {element.get("id"): element for element in root.iter() if element.get("id")}

    def numbers(text: str) -> list[float]:
        return [float(f"{float(n):.2f}") for n in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text or "")]

    def style(element) -> str:
        return rules.get(element.get("class"), element.get("style", "")).replace("'", "")

    def shape(element) -> tuple:
        letters = re.sub(r"[^A-Za-z]", "", element.get("d", "")) if element.get("d") else ""
        return letters, numbers(element.get("d")), [numbers(element.get(a)) for a in ("x", "y", "width", "height")]

    def clip(element) -> tuple:
        found = re.fullmatch(r"url\(#(.*)\)", element.get("clip-path", ""))
        return shape(by_id[found[1]][0]) if found else ()

    def walk(element, clips):
        clips = [*clips, clip(element)]
        if element.tag not in (f"{SVG}g", f"{SVG}svg", f"{SVG}defs", f"{SVG}metadata", f"{SVG}style", f"{SVG}clipPath"):
            target = by_id.get((element.get(HREF) or "").removeprefix("#"))
            turned = numbers(element.get("transform")) if "-0 " not in element.get("transform", "-0 ") else []
            yield (
                element.tag,
                style(element),
                shape(element),
                [c for c in clips if c],
                turned,
                (element.text or "").strip(),
                (shape(target), style(target)) if target is not None else (element.get(HREF) or "")[:40],
            )
        for child in element:
            if child.tag != f"{SVG}metadata":
                yield from walk(child, clips)

    return list(walk(root, []))


def test_a_compact_picture_shows_the_same(tmp_path):
    with drawing.style():
        picture().savefig(tmp_path / "plain.svg", metadata={"Date": None})
    plain = (tmp_path / "plain.svg").read_text(encoding="utf-8")
    small = compact(plain)
    assert leaves(small) == leaves(plain) and len(leaves(plain)) > 60
    assert len(small) < 0.6 * len(plain)
    assert compact(small) == small and "M 1.23456 L 2.34567" in small
    drawing.save(picture(), tmp_path / "saved", ("svg",))
    assert (tmp_path / "saved.svg").read_text(encoding="utf-8") == small


def nothing() -> Figure:
    raise drawing.NothingToPlot("no scores")


def broken() -> Figure:
    raise ValueError("a bug")


@pytest.mark.parametrize("cores", [1, 3])
def test_pictures_are_the_same_from_any_number_of_processes(tmp_path, monkeypatch, cores):
    monkeypatch.setattr(output, "cores", lambda: cores)
    pictures = {"a": partial(picture), "none": partial(nothing), "b": partial(picture), "none either": partial(nothing)}
    assert list(output.draw_all(pictures, tmp_path, ("svg",)).items()) == [("none", "no scores"), ("none either", "no scores")]
    drawing.save(picture(), tmp_path / "alone", ("svg",))
    assert {(tmp_path / f"{name}.svg").read_bytes() for name in ("a", "b", "alone")} == {(tmp_path / "alone.svg").read_bytes()}
    with pytest.raises(ValueError, match="a bug"):
        output.draw_all({"a": partial(picture), "broken": partial(broken)}, tmp_path, ("svg",))
    assert output.draw_all({}, tmp_path, ("svg",)) == {}
