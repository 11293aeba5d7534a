"""Settings of a cluster: what a user may write, what he gets, what he is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ablations.jobs import KINDS
from rundir.errors import UserError
from slurm.settings import COMMON, Cluster, Resources, from_dict, load, minutes

EXAMPLE = Path(__file__).resolve().parents[2] / "slurm" / "example.yaml"


def written(path: Path, content: dict) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_example_says_what_holds_without_it():
    assert load(EXAMPLE, [], KINDS) == load(None, [], KINDS)
    content = yaml.safe_load(EXAMPLE.read_text())
    everything = {field.name for field in dataclasses.fields(Cluster)} | set(COMMON)
    assert set(content) == everything
    sizes = {field.name for field in dataclasses.fields(Resources)} - set(COMMON)
    assert set(content["kinds"]["pretrain"]) == sizes and set(content["kinds"]) == set(KINDS)


def test_the_nearest_word_wins(tmp_path):
    file = written(
        tmp_path / "c.yaml",
        {
            "partition": "all",
            "extra": {"nice": 5},
            "requeues": 7,
            "kinds": {"pretrain": {"gpus": 4, "partition": "big"}, "report": {"extra": {"qos": "x"}}},
        },
    )
    cluster = load(file, ["account=me", "pretrain.gpus=8", "report.extra.begin=now", "extra.nice=9"], KINDS)
    assert {kind: own.partition for kind, own in cluster.kinds.items()} == dict.fromkeys(KINDS, "all") | {"pretrain": "big"}
    assert [cluster.kinds[kind].gpus for kind in ("pretrain", "transfer", "report")] == [8, 1, 0]
    assert {own.account for own in cluster.kinds.values()} == {"me"} and cluster.requeues == 7
    assert cluster.kinds["report"].extra == {"nice": 9, "qos": "x", "begin": "now"}
    assert from_dict(dataclasses.asdict(cluster)) == cluster


def test_what_sbatch_gets():
    own = load(
        None,
        [
            "partition=gpu",
            "pretrain.nodes=2",
            "pretrain.gpus=4",
            "pretrain.mem_gb=1.5",
            "pretrain.time=2-00:00:00",
            "setup=[module load cuda]",
            "extra={exclude: 'n[1-3]'}",
        ],
        KINDS,
    )
    given = own.parameters("pretrain")
    assert given["partition"] == "gpu" and given["mem"] == "1536M" and given["time"] == 2880
    assert given["setup"] == ["module load cuda"]
    assert (given["nodes"], given["ntasks_per_node"], given["gpus_per_node"]) == (2, 4, 4)
    assert given["additional_parameters"] == {"requeue": True, "exclude": "n[1-3]"}
    assert "account" not in given and own.kinds["pretrain"].processes == 8
    assert own.kinds["report"].processes == 1 and "gpus_per_node" not in own.parameters("report")


@given(st.integers(0, 9), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_times_are_slurms(days, hours, mins, secs):
    """Against seconds counted another way; sbatch's manual lists the forms."""
    total = ((days * 24 + hours) * 60 + mins) * 60 + secs
    if total:
        assert minutes(f"{days}-{hours}:{mins:02}:{secs:02}") == -(-total // 60)
        assert minutes(f"{days * 24 + hours}:{mins:02}:{secs:02}") == -(-total // 60)
    if mins or secs:
        assert minutes(f"{mins}:{secs:02}") == -(-(mins * 60 + secs) // 60)
    if days or hours:
        assert minutes(f"{days}-{hours}") == (days * 24 + hours) * 60
    assert minutes(mins + 1) == mins + 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["partitoin=gpu"], "did you mean partition"),
        (["gpus=4"], r"set pretrain\.gpus=4"),
        (["pretrain.gpu=4"], "did you mean gpus"),
        (["pretrain.gpus=-1"], "must be at least 0"),
        (["pretrain.gpus=1.5"], "must be a whole number"),
        (["pretrain.nodes=many"], "must be a whole number"),
        (["setup=module load"], "must be a list"),
        (["transfer.time=soon"], r"transfer\.time=soon is not a time"),
        (["report.time=0"], "no time at all"),
        (["signal_seconds=3600"], "is not before report"),
        (["extra.dependency=afterok:1"], "is not free"),
        (['partition="two\\nlines"'], "'partition' must be one line"),
        (['extra.nodelist="a\\tb"'], "'nodelist' must be one line"),
        (["array_parallelism=0"], "must be at least 1"),
        (["partition"], "not of the form key=value"),
        (["partition=[a"], "is not YAML"),
        (["pretrain.gpus=.inf"], "pretrain.gpus=inf must be a whole number"),
        (["pretrain.mem_gb=.nan"], "pretrain.mem_gb=nan must be a number"),
        (["requeues=" + "9" * 400], "requeues=9.* must be a whole number"),
        (["partition.name=a"], "unknown key|must be a text"),
    ],
)
def test_mistakes_are_named_in_one_line(words, said):
    with pytest.raises(UserError, match=said) as caught:
        load(None, words, KINDS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"copy slurm/example\.yaml"),
        ("- a", "must hold lines"),
        ("a: [", "line 1: |line 2: "),
        ("requeues: 3\nrequeues: 4", "line 2: requeues is there twice"),
        ("kinds:\n\tpretrain: {}", "line 2: it is indented with a tab"),
        ("a: &a [*a]", "holds itself"),
        ("kinds: [a]", "below kinds"),
        ("kinds: {training: {}}", "unknown key training"),
        ("kinds: {pretrain: 3}", "must hold lines"),
        ("kinds:\n  pretrain:\n", ""),
    ],
)
def test_files_that_are_wrong(text, said, tmp_path):
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_text(text)
    if not said:
        assert load(path, [], KINDS) == load(None, [], KINDS)
        return
    with pytest.raises(UserError, match=said):
        load(path, [], KINDS)


@pytest.mark.parametrize(("text", "expected"), [("1:00:00", 60), ("30:00", 30), ("0:30:00", 30), ("12:00:00", 720), ("90", 90)])
def test_times_without_quotes_are_times(text, expected, tmp_path):
    """YAML 1.1 takes 1:00:00 for 3600."""
    kind = next(iter(KINDS))
    assert load(None, [f"{kind}.time={text}"], KINDS).kinds[kind].minutes == expected
    file = tmp_path / "cluster.yaml"
    file.write_text(f"requeues: 7\nkinds:\n  {kind}: {{time: {text}, cpus: 3, mem_gb: 1.5}}\n")
    cluster = load(file, [], KINDS)
    assert cluster.kinds[kind].minutes == expected
    assert (cluster.requeues, cluster.kinds[kind].cpus, cluster.kinds[kind].mem_gb) == (7, 3, 1.5)


def test_a_mistake_in_an_option_is_not_put_on_the_file(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text("partition: main\n")
    with pytest.raises(UserError, match=r"^--slurm: unknown key partion; did you mean partition\?"):
        load(file, ["partion=main"], KINDS)
    with pytest.raises(UserError, match=r"^--slurm pretrain=4: pretrain is not a setting"):
        load(file, ["pretrain=4"], KINDS)
