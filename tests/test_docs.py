"""The documentation agrees with the code: cited sections exist, links and anchors resolve, every page is in the navigation of the
site, and the modules of the API page exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts.docs_hooks import on_page_content

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md"))])
CITATION = re.compile(r"METHOD\s+(?:#\s*)?sections?\s+(?:#\s*)?(\d+(?:\.\d+)?(?:\s*(?:,|and|to)\s+\d+(?:\.\d+)?)*)")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)


def cited(text: str) -> set[str]:
    """What a text cites of docs/method.md: "METHOD section 2", "METHOD sections 2, 3 and 5", "METHOD section 2.1"."""
    return {number for numbers in CITATION.findall(text) for number in re.findall(r"\d+(?:\.\d+)?", numbers)}


def sections(text: str) -> set[str]:
    """Numbers of a page's numbered headings, and of the numbered items below each: "2", "2.1"."""
    found = set()
    for number, body in re.findall(r"^## (\d+)\. .*?$(.*?)(?=^## |\Z)", text, re.M | re.S):
        found |= {number, *(f"{number}.{item}" for item in re.findall(r"^(\d+)\. ", body, re.M))}
    return found


def anchor(heading: str) -> str:
    """The anchor of a heading, as Python-Markdown's toc extension and GitHub make it from plain words."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


def anchors(path: Path) -> set[str]:
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.M)}


def links(text: str) -> list[str]:
    """Targets of a page's links and pictures that are within the project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", FENCE.sub("", text)))
    return [target for target in targets if "://" not in target and not target.startswith("mailto:")]


def broken(path: Path) -> list[str]:
    """Links of a page to files or headings that are not there."""
    found = []
    for target in links(path.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (heading and heading not in anchors(file)):
            found.append(target)
    return found


def sources() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "*.py", "*.yaml", "*.md"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    return [ROOT / name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def test_every_cited_section_of_the_method_is_a_numbered_heading():
    there = sections((DOCS / "method.md").read_text(encoding="utf-8"))
    citations = {
        path.relative_to(ROOT).as_posix(): numbers
        for path in sources()
        if path != Path(__file__).resolve() and (numbers := cited(path.read_text(encoding="utf-8")))
    }
    assert len(citations) > 50
    assert {path: numbers - there for path, numbers in citations.items() if not numbers <= there} == {}


def test_a_citation_of_a_missing_section_would_be_found():
    assert cited("(METHOD section 3; US-Nets)") == {"3"} and cited("METHOD sections 2, 3 and 15 once") == {"2", "3", "15"}
    assert cited("see METHOD\n# section 7") == {"7"} and cited("METHODS section 3") == set()
    assert cited("METHOD section 2.9: (") == {"2.9"} and sections("## 1. A\n1. x\n2. y\n## 2. B\n") == {"1", "1.1", "1.2", "2"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_resolve(path):
    assert broken(path) == []


def test_a_broken_link_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c: d?\n[1](#a-b-c-d) [2](page.md#no) [3](gone.md) [4](https://x.org) `[5](no)`\n```\n[6](no)\n```\n",
        encoding="utf-8",
    )
    assert broken(page) == ["page.md#no", "gone.md"]


def test_the_site_has_every_page_and_no_link_out_of_docs():
    def pages(entry):
        return (
            [entry]
            if isinstance(entry, str)
            else [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]
        )

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(pages(site["nav"])) == sorted(path.name for path in DOCS.glob("*.md"))
    outside = {
        path.name: [target for target in links(path.read_text(encoding="utf-8")) if target.startswith("../")]
        for path in DOCS.glob("*.md")
    }
    assert {name: targets for name, targets in outside.items() if targets} == {}
    assert site["theme"]["font"] is False  # otherwise pages ask Google's servers


def test_the_modules_of_the_api_page_exist():
    modules = re.findall(r"^::: ([\w.]+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.M)
    paths = [ROOT / module.replace(".", "/") for module in modules]
    assert len(modules) > 20
    assert [str(path) for path in paths if not path.with_suffix(".py").is_file() and not (path / "__init__.py").is_file()] == []


def test_roles_in_docstrings_become_code():
    html = "<p>See :func:<code>~a.b.c</code> and :class:<code>D</code>, <code>:x:</code>.</p>"
    assert on_page_content(html) == "<p>See <code>c</code> and <code>D</code>, <code>:x:</code>.</p>"


ROOMS = "ablations|benchmarks|containers|examples|pretrain|results|rundir|scripts|slurm|tests|transfer"
FILE = re.compile(rf"[`(]((?:{ROOMS})/[\w./-]+\.\w+)[`)]")
NAMED = re.compile(rf"`(\w+)`(?: and `(\w+)`)? in \[?`?((?:{ROOMS})/[\w/]+\.py)")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_files_that_a_page_names_exist_and_hold_what_it_says(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    assert [name for name in FILE.findall(text) if not (ROOT / name).exists()] == []
    for *names, file in NAMED.findall(text):
        code = (ROOT / file).read_text(encoding="utf-8")
        assert [name for name in names if name and not re.search(rf"^\s*(def|class) {name}\b|^{name}\b", code, re.M)] == [], file
