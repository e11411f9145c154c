"""Packs: everything comes once, nothing overflows, little is filled up, and the order is the seed's and the epoch's."""

from collections import Counter

import numpy as np
import pytest

from lstmjax.packing import Packs, deal, in_order

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(1, 40, 300)
COUNTS = np.minimum(1 + RNG.poisson(LENGTHS / 6), 16)


def _packs(**changes):
    return Packs(LENGTHS, COUNTS, lambda pack: pack, **dict(batch_size=16, buckets=4, seed=3) | changes)


@pytest.mark.parametrize("parts", [1, 3])
def test_each_sequence_comes_once_in_an_epoch_and_fits(parts):
    packs = _packs(parts=parts)
    for epoch in (0, 1):
        made = list(packs(epoch))
        assert Counter(np.concatenate([pack.rows for pack in made]).tolist()) == Counter(range(300))
        for rows, length, sequences, asked in made:
            assert LENGTHS[rows].max() <= length
            assert len(rows) <= sequences
            assert COUNTS[rows].sum() <= asked
            assert sequences % parts == asked % parts == 0
            assert asked < 16 + parts
    assert len({pack[1:] for pack in made}) <= 4


def test_little_is_filled_up():
    made = list(_packs(batch_size=64)(0))
    assert COUNTS.sum() / sum(pack.asked for pack in made) > 0.8
    assert 300 / sum(pack.sequences for pack in made) > 0.8


def test_the_order_is_that_of_seed_and_epoch():
    def order(epoch, **changes):
        return [pack.rows.tolist() for pack in _packs(**changes)(epoch)]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != order(0, seed=4)
    assert sorted(map(sorted, order(0))) != sorted(map(sorted, order(1)))  # other company, not another order alone
    assert len(_packs()(0)) == len(_packs()(5))


def test_where_each_is_asked_one_thing_batches_are_those_of_sequences():
    packs = Packs([3] * 10, [1] * 10, lambda pack: pack, batch_size=4)
    assert sorted((len(pack.rows), *pack[1:]) for pack in packs(0)) == [(3, 3, 4, 4), (3, 3, 4, 4), (4, 3, 4, 4)]


@pytest.mark.parametrize("seed", range(5))
def test_dealing_leaves_little_and_is_level(seed):
    counts = np.sort(np.random.default_rng(seed).integers(1, 12, 200))[::-1]
    dealt = deal(counts, room=32)
    loads = [counts[part].sum() for part in dealt]
    assert sorted(np.concatenate(dealt).tolist()) == list(range(200))
    assert max(loads) <= 32
    assert len(dealt) <= -(-counts.sum() // 32) + 1
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 2


def test_any_number_of_sequences_is_asked_in_few_shapes():
    packs = in_order(LENGTHS.tolist(), COUNTS.tolist(), 32)
    assert Counter(np.concatenate([pack.rows for pack in packs]).tolist()) == Counter(range(300))
    for rows, length, sequences, asked in packs:
        assert LENGTHS[rows].max() <= length < 2 * max(8, LENGTHS[rows].max())
        assert len(rows) <= sequences
        assert COUNTS[rows].sum() <= asked
    assert len({pack[2:] for pack in packs}) == 1
    assert [pack[1:] for pack in in_order([5] * 64, [1] * 64)] == [(8, 64, 64)]
    assert in_order([], []) == []


@pytest.mark.parametrize(
    ("lengths", "counts", "change", "said"),
    [
        ([3, 4], [1], {}, "one a length"),
        ([3, 4], [1, 9], {}, r"1 to batch_size = 8, got 1 to 9"),
        ([3, 4], [0, 1], {}, "counts should lie in 1"),
        ([3], [1], dict(batch_size=0), "batch_size"),
        ([3], [1], dict(parts=0), "parts"),
    ],
)
def test_what_makes_no_sense_is_refused(lengths, counts, change, said):
    with pytest.raises(ValueError, match=said):
        Packs(lengths, counts, lambda pack: pack, **dict(batch_size=8) | change)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="counts should be at most room = 4, got up to 5"):
        deal([5], 4)
    with pytest.raises(ValueError, match="counts should be at most at_most = 4, got up to 5"):
        in_order([3], [5], 4)
