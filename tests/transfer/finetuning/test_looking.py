"""Files are looked at once, by all processes together, and faults are the same in all of them."""

from __future__ import annotations

import socket

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.images import Header
from rundir.errors import UserError
from transfer.finetuning.looking import look_at_all, settle_exif, trained_on_too


def square(index):
    if index in (5, 8):
        raise UserError(f"{index} is wrong")
    return index * index


def test_results_come_in_order_and_faults_are_counted():
    assert look_at_all(square, 5, "squares", show=False) == [0, 1, 4, 9, 16]
    with pytest.raises(UserError, match=r"^5 is wrong \(and 1 more files\)$"):
        look_at_all(square, 9, "squares", show=False)
    assert look_at_all(square, 0, "squares", show=False) == []


def test_a_crash_is_no_fault_of_the_data():
    with pytest.raises(ZeroDivisionError):
        look_at_all(lambda index: 1 / index, 2, "quotients", show=False)


def _process(rank, port, queue):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    seen = []

    def look(index):
        seen.append(index)
        return square(index)

    found = look_at_all(look, 5, "squares", show=False)
    try:
        look_at_all(square, 9, "squares", show=False)
    except UserError as error:
        queue.put((rank, sorted(seen), found, str(error)))
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_share_the_work_and_know_all_results():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_process, args=(rank, port, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    results = sorted(queue.get(timeout=600) for _ in workers)
    for worker in workers:
        worker.join(60)
    same = ([0, 1, 4, 9, 16], "5 is wrong (and 1 more files)")
    assert results == [(0, [0, 2, 4], *same), (1, [1, 3], *same)]


TURNED = Header((9, 6), 6)  # displayed 6 x 9
HALF = Header((9, 6), 3)


@pytest.mark.parametrize(
    ("stated", "asked", "found"),
    [
        ([], None, "displayed"),
        ([(Header((9, 6)), (9, 6))], None, "displayed"),
        ([(TURNED, (6, 9))], None, "displayed"),
        ([(TURNED, (9, 6))], None, "stored"),
        ([(TURNED, (9, 6)), (HALF, (9, 6))], None, "stored"),
        ([(TURNED, (6, 9)), (HALF, (9, 6))], None, "displayed"),
        ([(HALF, (9, 6))], "stored", "stored"),
        ([(HALF, (9, 6)), (TURNED, (9, 6)), (TURNED, (6, 9))], "displayed", "displayed"),
    ],
)
def test_quarter_turns_show_what_half_turns_mean(stated, asked, found):
    assert settle_exif([(f"{i}.jpg", header, size) for i, (header, size) in enumerate(stated)], asked)[0] == found


@pytest.mark.parametrize(
    "stated", [[(HALF, (9, 6))], [(HALF, (9, 6)), (TURNED, (9, 6)), (TURNED, (6, 9))], [(Header((6, 6), 6), (6, 6))]]
)
def test_what_is_left_open_has_to_be_said(stated):
    message = r"0\.jpg has an EXIF orientation .* \(1 such images\); set --exif displayed or --exif stored"
    with pytest.raises(UserError, match=message):
        settle_exif([(f"{i}.jpg", header, size) for i, (header, size) in enumerate(stated)], None)


@given(st.lists(st.tuples(st.integers(1, 8), st.booleans())), st.sampled_from(["stored", "displayed"]))
def test_the_note_counts_every_turned_image(images, asked):
    """Whatever is asked for, an image whose size tells is counted as what it tells."""
    stated = []
    for number, (orientation, stored) in enumerate(images):
        header = Header((9, 6), orientation)
        stated.append((f"{number}.jpg", header, header.stored if stored else header.displayed))
    _, notes = settle_exif(stated, asked)
    turned = [(h, size) for _, h, size in stated if h.orientation != 1]
    assert len(notes) == bool(turned)
    if turned:
        sides = [h.sides(size) for h, size in turned]
        as_stored = sum(side == ["stored"] or (len(side) == 2 and asked == "stored") for side in sides)
        assert notes[0].startswith(f"{len(turned)} images have an EXIF orientation")
        assert (f"{as_stored} annotated as stored" in notes[0]) == bool(as_stored)


def test_images_in_both_splits_are_found_behind_links(tmp_path):
    (tmp_path / "a").write_text("")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert trained_on_too([tmp_path / "a"], [tmp_path / "b", tmp_path / "c"]) == [
        f"1 of the 2 images scored on are trained on, too: {(tmp_path / 'a').resolve()}"
    ]
    assert trained_on_too([tmp_path / "a"], [tmp_path / "c"]) == []
