"""Runs in one file: a report of it is that of the directories, byte for byte but for how it was made."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results import archive, report
from results.claims.__main__ import main as claims_main
from results.frame import run_directories
from rundir.errors import UserError
from tests.program import exit_code
from tests.results.synthetic import config, metric, record, write_grid, write_manifest, write_run

pytestmark = pytest.mark.usefixtures("undrawn_module")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A grid with metrics and claims, a run without results, one whose log is cut off, and one that logs what others do not."""
    root = tmp_path_factory.mktemp("places") / "runs"
    write_grid(root / "guidelines", seeds=(100, 101, 102), epochs=3)
    write_run(root / "own", config(grid="own", cell="é"), [record(0.5, 1 / 3)], [metric("loss/base", 1, 0.1 + 0.2)])
    write_run(root / "own", config(grid="own", cell="running"), state="running")
    cut = write_run(root / "own", config(grid="own", cell="cut"), [record(0.5, 0.25)])
    (cut / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "name": "loss/base", "width": null, "value": 0.25}\n{"step": 2')
    other = write_run(root / "own", config(grid="own", cell="other"), [record(0.5, 0.25)])
    (other / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "name": "x", "width": null, "value": NaN, "more": 1}\n')
    return root


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and ".frame" not in path.parts
    }


def test_the_report_of_the_file_is_that_of_the_directories(runs, tmp_path, capsys):
    file = tmp_path / "kept" / "records.parquet"
    assert report.main(["--runs", str(runs), "--publish", str(file)]) == 0
    assert f"in {file}" in capsys.readouterr().out and [path.name for path in file.parent.iterdir()] == ["records.parquet"]
    ours = report.build(runs, tmp_path / "a", keep=False, command="made")
    theirs = report.build(file, tmp_path / "b", command="made")
    assert ours.paths.keys() == theirs.paths.keys() and len(ours.paths) > 20
    for name in set(ours.paths) - {"frame.parquet", "index.html"}:
        assert ours.paths[name].read_bytes() == theirs.paths[name].read_bytes(), name
    pd.testing.assert_frame_equal(*(pd.read_parquet(made.paths["frame.parquet"]) for made in (ours, theirs)))
    pages = [made.paths["index.html"].read_text().replace(str(runs.name), "").replace("0/", "") for made in (ours, theirs)]
    assert len(pages[0]) > 1000 and abs(len(pages[0]) - len(pages[1])) < 200
    assert [(v.claim.id, v.verdict, v.effect, v.p_holm) for v in ours.verdicts if v.n] == [
        (v.claim.id, v.verdict, v.effect, v.p_holm) for v in theirs.verdicts if v.n
    ]
    assert claims_main(["--runs", str(file)]) == 0 and "guideline-1-is-enough" in capsys.readouterr().out
    report.build(file)
    assert (file.parent / "report" / "index.html").exists()


def test_directories_come_back_as_they_were(runs, tmp_path):
    (tmp_path / "back").mkdir()
    assert archive.pack([runs], tmp_path / "a.parquet") == len(list(runs.glob("*/*/config.yaml")))
    [root] = archive.unpack(tmp_path / "a.parquet", tmp_path / "back")
    old, new = tree(runs), tree(root)
    assert old.keys() == new.keys()
    for name, text in old.items():
        if name.endswith("metrics.jsonl"):
            lines = [[json.loads(line) for line in each.splitlines()[:-1]] for each in (text, new[name])]
            assert lines[0] == lines[1]
        else:
            assert text == new[name], name
    # A log that columns would not give back is kept as it is
    odd = [name for name in old if "/cut-" in name or "/other-" in name]
    assert len(odd) > 4 and all(old[name] == new[name] for name in odd)
    archive.pack([root], tmp_path / "b.parquet")
    assert pq.read_table(tmp_path / "a.parquet").equals(pq.read_table(tmp_path / "b.parquet"))


def test_grids_of_one_name_in_two_places_stay_apart(tmp_path):
    for place, value in (("a", 0.25), ("b", 0.5)):
        write_run(tmp_path / place / "g", config(grid="g", cell=place), [record(1.0, value)])
        write_manifest(tmp_path / place / "g", [])
    archive.pack([tmp_path / "a", tmp_path / "b" / "g"], tmp_path / "r.parquet")
    with archive.opened([tmp_path / "r.parquet", tmp_path / "a"]) as roots:
        assert len(roots) == 3 and roots[2] == tmp_path / "a"
        assert [path.parts[-2][:2] for path in roots[0].glob("g/*/config.yaml")] == ["a-"]
        assert tree(roots[1]) == {f"g/{name}": text for name, text in tree(tmp_path / "b" / "g").items()}
    assert not roots[0].exists()


def test_runs_of_one_name_below_one_directory_stay_apart(tmp_path):
    """A backup inside a grid's folder, and links to folders of one name; a place given twice counts once."""
    for place, value in (("g", 0.5), ("g/g", 0.25), ("elsewhere/g", 0.75)):
        write_run(tmp_path / place, config(grid="g", cell="mine"), [record(1.0, value)], name="mine")
    write_run(tmp_path / "g" / "g", config(grid="g", cell="open"), state="running", name="open")
    write_run(tmp_path / "elsewhere" / "g", config(grid="g", cell="open"), [record(1.0, 0.1)], name="open")
    (tmp_path / "g" / "link").symlink_to(tmp_path / "elsewhere" / "g")
    assert archive.pack([tmp_path / "g", tmp_path / "g" / "g"], tmp_path / "r.parquet") == 5
    with archive.opened([tmp_path / "r.parquet"]) as places:
        found = [path for place in places for path in run_directories(place)]
        texts = sorted((path / "result.json").read_text() if (path / "result.json").exists() else "" for path in found)
    lived = {path.resolve() for path in run_directories(tmp_path / "g")}
    assert texts == sorted((path / "result.json").read_text() if (path / "result.json").exists() else "" for path in lived)
    assert len(found) == 5 and texts.count("") == 1


def test_what_cannot_be_published_or_read_is_one_line(runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["--runs", str(tmp_path / "empty"), "--publish", "x.parquet"], "holds no runs"),
        (["--runs", str(runs), "--publish", str(tmp_path / "x.csv")], "no name of a Parquet file"),
        (["--runs", str(tmp_path / "none.parquet")], "no file "),
    ):
        assert exit_code(report.main, words) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="no file of runs of format 1"):
        archive.unpack(tmp_path / "other.parquet", tmp_path)
    for place in ("../x", "/x/y", "0", None, "0/a/b/c"):
        row = {"place": place, "config.yaml": "a: 1"}
        pq.write_table(pa.Table.from_pylist([row], schema=archive._schema()), tmp_path / "bad.parquet")
        with pytest.raises(UserError, match="which is no grid and no run"):
            archive.unpack(tmp_path / "bad.parquet", tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())
