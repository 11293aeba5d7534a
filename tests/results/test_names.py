"""File names of tables and pictures, from whatever data sets, presets and settings are called."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.names import MOST, file_name
from results.report import build
from tests.results.synthetic import config, record, write_run

texts = st.one_of(
    st.text(max_size=12),
    st.text(alphabet="aA-_./\\ :é0", max_size=6),
    st.text(min_size=300, max_size=310),
    st.sampled_from(["digits", "linear_fast", "con", "nul", ".", "..", "", "-", "a-b", "a b", "a_b", "A_B"]),
)
parts = st.lists(texts, max_size=4)


@given(parts)
def test_a_name_is_safe_and_stable(words):
    name = file_name(words)
    assert name == file_name(list(words)) and len(name) <= MOST and name == name.lower() and name.isascii()
    assert all(character.isalnum() or character in "-_." for character in name)
    assert not name.startswith((".", "-")) and not name.endswith("-")


@given(parts, parts)
def test_different_texts_have_different_names(one, other):
    for words in (one, other):
        while words and not words[-1]:
            words.pop()
    assert (file_name(one) == file_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("words", "name"),
    [(["digits", "linear_fast"], "digits-linear_fast"), (["digits", "knn", "", ""], "digits-knn"), ([], ""), (["v1.5"], "v1.5")],
)
def test_ordinary_names_stay(words, name):
    assert file_name(words) == name


def test_data_sets_whose_names_differ_in_lost_characters_have_files_of_their_own(tmp_path, undrawn_module):
    names = ["a b", "a-b", "a/b", "A B", "日本", "中国", "", "x" * 300, "x" * 301]
    write_run(tmp_path / "guidelines", config(), [record(1.0, (1 + i) / 20, dataset=name) for i, name in enumerate(names)])
    made = build(tmp_path / "guidelines", tmp_path / "out")
    tables = [table for table in made.tables if table.name != "table-transfer"]
    assert len({table.name.lower() for table in tables}) == len(names)
    values = {score.mean for table in tables for row in table.rows for score in row.scores if score}
    assert values == {(1 + i) / 20 for i in range(len(names))}
    for table in tables:
        mean = max(score.mean for row in table.rows for score in row.scores if score)
        assert f"| **{100 * mean:.1f}**" in made.paths[f"{table.name}.md"].read_text()
    pictures = [name for name in made.paths if name.startswith("accuracy-width-") and name.endswith(".svg")]
    assert len(pictures) == len(names)
