"""The patches that a sub-network of a ViT keeps: which, what is computed on them, and what needs all."""

from __future__ import annotations

import itertools
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.models import build
from pretrain.slimmable import CostTable, Subnet, at_width, canonical, channel_signature, cost, extract, space_of
from pretrain.slimmable.patches import patch_order, patches_kept, places_kept
from pretrain.slimmable.structure import structure_of
from tests.pretrain.test_subnets import images, network

SIDES, SHARES = st.integers(1, 20), st.floats(0.01, 1)


def dither(times):
    """Bayer's matrix of side 2**times by its recursion."""
    made = np.zeros((1, 1), int)
    for _ in range(times):
        made = np.block([[4 * made, 4 * made + 2], [4 * made + 3, 4 * made + 1]])
    return made


@given(height=SIDES, width=SIDES)
def test_the_order_is_that_of_the_dither_matrix(height, width):
    thresholds = dither(5)[:height, :width].flatten()
    assert list(patch_order(height, width)) == list(np.argsort(thresholds, kind="stable"))


@given(height=SIDES, width=SIDES, shares=st.tuples(SHARES, SHARES))
def test_smaller_shares_keep_some_of_the_patches_of_larger_ones(height, width, shares):
    less, more = sorted(shares)
    if round(less * height * width) < 1:
        return
    kept = [places_kept(height, width, share) for share in (less, more)]
    assert set(kept[0]) <= set(kept[1]) <= set(range(height * width))
    for places, share in zip(kept, (less, more), strict=True):
        assert list(places) == sorted(places) and abs(len(places) - share * height * width) <= 0.5


@pytest.mark.parametrize("side", [4, 8, 16])
def test_each_quarter_has_its_share(side):
    for count in range(1, side**2 + 1):
        kept = np.isin(np.arange(side**2), patch_order(side, side)[:count]).reshape(side, side)
        quarters = [part.sum() for rows in np.split(kept, 2) for part in np.split(rows, 2, axis=1)]
        assert max(quarters) - min(quarters) <= 1


@pytest.mark.parametrize("side", [3, 7, 14, 16])
def test_every_patch_has_a_kept_one_near_it(side):
    places = np.stack(np.divmod(np.arange(side**2), side), 1)
    distance = np.abs(places[:, None] - places).max(2)
    for count in range(1, side**2 + 1):
        assert distance[:, patch_order(side, side)[:count]].min(1).max() <= 2 * side / np.sqrt(count)


def test_a_half_is_a_chequerboard_and_a_quarter_every_second_patch_of_every_second_row():
    rows, columns = np.divmod(np.array(places_kept(14, 14, 0.5)), 14)
    assert ((rows + columns) % 2 == 0).all() and len(rows) == 98
    assert places_kept(4, 4, 0.25) == (0, 2, 8, 10)


@pytest.mark.parametrize(("share", "count"), [(1.0, 16), (0.5, 8), (0.47, 8), (0.1, 2), (0.04, 1), (0.03125, 1)])
def test_how_many_are_kept(share, count):
    assert patches_kept(4, 4, share) == count


def test_a_share_that_keeps_no_patch_is_refused():
    with pytest.raises(ValueError, match=r"p0\.03 keeps none of the 16 patches of an image; set p0\.0625 or more"):
        patches_kept(4, 4, 0.03)
    with pytest.raises(ValueError, match="none of the 1 patches of an image; set p1 or more"):
        extract(network("vit_micro"), Subnet(patches=0.25))(images(size=4))


def by_hand(model, width, places, x):
    """The dense network of ``width`` on the class token and the patches at ``places`` alone."""
    dense = extract(model, width)
    with torch.no_grad():
        tokens = dense.patch_embed(x).flatten(2).transpose(1, 2) + dense.pos_embed[:, 1:]
        first = (dense.cls_token + dense.pos_embed[:, :1]).expand(len(x), -1, -1)
        tokens = torch.stack([first[:, 0], *(tokens[:, place] for place in places)], dim=1)
        return dense.norm(dense.blocks(tokens))[:, 0]


@pytest.mark.parametrize("arch", ["vit_micro", "vit_micro_heads"])
@pytest.mark.parametrize(
    ("width", "share", "places"), [(1.0, 0.25, (0, 2, 8, 10)), (0.5, 0.5, (0, 2, 5, 7, 8, 10, 13, 15)), (1.0, 0.0625, (0,))]
)
def test_the_blocks_compute_on_the_kept_patches_at_their_places(arch, width, share, places):
    model, x = network(arch), images(size=16)
    with torch.no_grad(), at_width(model.eval(), Subnet(width, patches=share)):
        found = model(x)
    torch.testing.assert_close(found, by_hand(model, width, places, x))


@settings(deadline=None, max_examples=15)
@given(share=st.floats(0.06, 0.9), size=st.sampled_from([12, 16, 24]))
def test_pixels_of_patches_that_are_left_out_do_not_count(share, size):
    model, x = network("vit_micro_heads").double(), images(2, size).double().requires_grad_()
    with at_width(model, Subnet(0.5, patches=share)):
        model(x).square().sum().backward()
    seen = x.grad.abs().sum((0, 1)).unflatten(0, (-1, 4)).unflatten(2, (-1, 4)).sum((1, 3)).flatten()
    assert tuple(seen.nonzero().flatten().tolist()) == places_kept(size // 4, size // 4, share)


def test_all_patches_are_the_network_that_it_was():
    model, x = network("vit_micro"), images(size=16)
    assert canonical(model, Subnet(0.5, patches=1.0)) == 0.5
    assert channel_signature(model, Subnet(0.5, patches=0.5)) != channel_signature(model, 0.5)
    with torch.no_grad(), at_width(model.eval(), Subnet(0.5, patches=1.0)):
        whole = model(x)
    assert torch.equal(whole, by_hand(model, 0.5, range(16), x))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), share=st.floats(0.06, 1), side=st.sampled_from([None, 12, 16]))
def test_the_table_of_costs_equals_counting(seed, share, side):
    table = TABLES.setdefault("table", CostTable(network("vit_micro_heads"), 16))
    model = network("vit_micro_heads")
    drawn = space_of(model).random(random.Random(seed))
    subnet = (
        Subnet(*(getattr(drawn, name, None) for name in ("width", "depth")), resolution=side, patches=share)
        if isinstance(drawn, Subnet)
        else Subnet(drawn, resolution=side, patches=share)
    )
    counted, load = cost(model, subnet, 16), table.load(subnet)
    assert (load.flops, load.parameters) == (counted.flops, counted.parameters)


TABLES: dict[str, CostTable] = {}


def test_shares_that_keep_as_many_patches_are_one_network():
    table = CostTable(network("vit_micro"), 16)
    assert table.network(Subnet(patches=0.5)) == table.network(Subnet(patches=0.52)) != table.network(Subnet(patches=0.6))
    assert table.network(Subnet(patches=0.99)) == table.network(1.0)
    loads = [table.load(Subnet(patches=share) if share < 1 else 1.0) for share in (1, 0.5, 0.25)]
    for more, less in itertools.pairwise(loads):
        assert less.flops < 0.65 * more.flops and less.parameters == more.parameters and less.memory <= more.memory


def test_the_space_of_a_vit_has_shares():
    space = space_of(network("vit_micro"), vary=["patches"])
    assert space.dimensions == ("patches",) and len(space) == 7
    assert (space.largest, space.smallest) == (1.0, Subnet(patches=0.25)) and space.along("patches") == space
    assert space.smaller(1.0) == [Subnet(patches=0.875)] and Subnet(patches=0.5) in space and Subnet(patches=0.3) not in space
    assert space.uniform()[0] == 1.0 and Subnet(patches=0.25) in space.path()
    assert [len(each) for each in (space.members(), space.path())] == [7, 7]
    fixed = space_of(network("vit_micro"), vary=["width", "depth"])
    assert fixed.patches == () and Subnet(patches=0.5) not in fixed and Subnet(resolution=8) not in fixed
    with pytest.raises(ValueError, match="no elastic patches"):
        space_of(network("resnet_medium"), vary=["patches"])


def test_who_needs_all_patches_says_so():
    model, subnet = network("vit_micro"), Subnet(patches=0.5)
    for use in (
        lambda: extract(model, subnet).stages(images(size=16)),
        lambda: extract(model, subnet).visible_tokens(images(size=16), torch.zeros(4, 2, dtype=torch.int64)),
    ):
        with pytest.raises(ValueError, match=re.escape("need all patches, and p0.5 leaves some out; leave out p0.5")):
            use()
    with pytest.raises(ValueError, match=re.escape("p0.5: this network has no patches; leave out p0.5")):
        extract(build("resnet_small"), subnet)
    with pytest.raises(ValueError, match="keeps none of the 9 patches"):
        structure_of(model).check_size(Subnet(patches=0.05), 12)
    structure_of(model).check_size(Subnet(patches=0.05), 16)
