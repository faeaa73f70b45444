"""The demo's data: where it came from is what it says, and the sites' split and sums are what they should be."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from client_wasm import wdbc

labels = npst.arrays(np.int64, st.integers(10, 300), elements=st.integers(0, 1))
seeds = st.integers(0, 2**32)
numbers = st.floats(-1e6, 1e6)
tables = st.integers(1, 5).flatmap(
    lambda features: st.lists(
        npst.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(features)), elements=numbers),
        min_size=1,
        max_size=4,
    )
)


def test_the_file_is_the_one_that_its_provenance_describes():
    room = files("client_wasm")
    digest = hashlib.sha256(room.joinpath("wdbc.csv").read_bytes()).hexdigest()
    assert f"sha256 of `wdbc.csv` | `{digest}`" in room.joinpath("wdbc.md").read_text(encoding="utf-8")


def test_the_data_has_its_published_shape_and_summary():
    x, y, features = wdbc.load()
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((569, 30), np.float64, (569,), np.int64)
    assert (y == 1).sum() == 212
    assert (y == 0).sum() == 357
    assert len(set(features)) == 30
    published = {"mean_radius": (6.981, 28.11), "area_error": (6.802, 542.2), "worst_fractal_dimension": (0.055, 0.208)}
    for name, (low, high) in published.items():
        column = x[:, features.index(name)]
        assert (column.min(), column.max()) == pytest.approx((low, high), abs=6e-4)


def test_malignant_masses_are_larger():
    x, y, features = wdbc.load()
    radius = x[:, features.index("mean_radius")]
    assert radius[y == 1].mean() > radius[y == 0].mean()


def test_the_splits_of_the_demo_do_not_depend_on_the_numpy_version():
    y = wdbc.load().y
    split = wdbc.held_out(y)
    sites = wdbc.site_rows(y, split.train)
    assert [len(split.test), int(y[split.test].sum())] == [113, 42]
    assert [(len(rows), int(y[rows].sum())) for rows in sites] == [(228, 59), (137, 60), (91, 51)]
    text = " ".join(str(part.tolist()) for part in (split.test, *sites))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "c7ae995243adfd738112adf98da6af24ee015dfa8342033ae2e6c38e3a48074a"
    )


@given(y=labels, seed=seeds, fraction=st.floats(0.05, 0.95))
def test_the_held_out_rows_are_a_stratified_part(y, seed, fraction):
    split = wdbc.held_out(y, seed=seed, fraction=fraction)
    assert sorted([*split.train, *split.test]) == list(range(len(y)))
    for label in np.unique(y):
        held = (y[split.test] == label).sum()
        assert abs(held - fraction * (y == label).sum()) <= 0.5 + 1e-9
    again = wdbc.held_out(y, seed=seed, fraction=fraction)
    np.testing.assert_array_equal(again.test, split.test)


def test_another_seed_holds_out_other_rows():
    y = wdbc.load().y
    assert set(wdbc.held_out(y, seed=0).test) != set(wdbc.held_out(y, seed=1).test)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, float("nan")])
def test_a_fraction_that_leaves_one_side_empty_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        wdbc.held_out(wdbc.load().y, fraction=fraction)


@given(y=labels, seed=seeds, data=st.data())
def test_each_row_goes_to_exactly_one_site_in_its_label_s_shares(y, seed, data):
    weights = st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(sum)
    shares = {label: tuple(w / sum(part) for w in part) for label in (0, 1) for part in [data.draw(weights)]}
    rows = wdbc.held_out(y, seed=seed).train
    sites = wdbc.site_rows(y, rows, seed=seed, shares=shares)
    assert sorted(np.concatenate(sites)) == list(rows)
    for label in np.unique(y[rows]):
        for site, share in zip(sites, shares[int(label)], strict=True):
            assert abs((y[site] == label).sum() - share * (y[rows] == label).sum()) <= 1 + 1e-6


def test_the_sites_of_the_demo_differ_in_size_and_in_label_balance():
    y = wdbc.load().y
    sites = wdbc.site_rows(y, wdbc.held_out(y).train)
    sizes = [len(rows) / sum(map(len, sites)) for rows in sites]
    assert sizes == pytest.approx([0.5, 0.3, 0.2], abs=0.01)
    balance = [y[rows].mean() for rows in sites]
    assert balance[0] < 0.3 < balance[1] < 0.5 < balance[2]


@pytest.mark.parametrize("shares", [{0: (0.5, 0.5)}, {0: (0.5, 0.5), 1: (0.5, 0.4)}, {0: (0.5, 0.5), 1: (1.0,)}])
def test_shares_that_do_not_cover_every_row_are_refused(shares):
    y = np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="shares"):
        wdbc.site_rows(y, np.arange(4), shares=shares)


@given(sites=tables)
def test_federated_moments_equal_those_of_the_pooled_rows(sites):
    pooled = np.concatenate(sites)
    assume(np.all((pooled.std(axis=0) > 1e-4 * np.abs(pooled).max(axis=0)) & (pooled.std(axis=0) > 1e-100)))
    moments = wdbc.federated_moments([wdbc.site_sums(x) for x in sites])
    np.testing.assert_allclose(moments.mean, pooled.mean(axis=0), rtol=1e-9, atol=1e-9 * np.abs(pooled).max())
    np.testing.assert_allclose(moments.std, pooled.std(axis=0), rtol=1e-5)


@given(value=numbers, counts=st.lists(st.integers(1, 50), min_size=1, max_size=4))
def test_a_constant_feature_has_deviation_one_and_standardises_to_nothing(value, counts):
    sites = [np.full((n, 1), value) for n in counts]
    moments = wdbc.federated_moments([wdbc.site_sums(x) for x in sites])
    assert moments.std.tolist() == [1.0]
    assert np.abs(wdbc.standardise(sites[0], moments)).max() <= 1e-12 * max(1.0, abs(value))


def test_the_demo_s_features_standardise_to_mean_zero_and_deviation_one():
    x, y, _ = wdbc.load()
    train = wdbc.held_out(y).train
    moments = wdbc.federated_moments([wdbc.site_sums(x[rows]) for rows in wdbc.site_rows(y, train)])
    z = wdbc.standardise(x[train], moments)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-10)


def test_moments_of_nothing_or_of_sites_that_disagree_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        wdbc.federated_moments([])
    with pytest.raises(ValueError, match="no rows"):
        wdbc.federated_moments([wdbc.site_sums(np.empty((0, 2)))])
    with pytest.raises(ValueError, match="features"):
        wdbc.federated_moments([wdbc.site_sums(np.ones((2, 2))), wdbc.site_sums(np.ones((2, 3)))])


def test_log_loss_and_accuracy_of_known_predictions():
    x, y = np.array([[1.0], [-1.0], [1.0]]), np.array([1, 0, 0])
    w = np.array([np.log(3)])  # p(malignant) is 3/4, 1/4, 3/4
    assert wdbc.log_loss(w, 0.0, x, y) == pytest.approx(-np.log([0.75, 0.75, 0.25]).mean())
    assert wdbc.accuracy(w, 0.0, x, y) == pytest.approx(2 / 3)
    assert wdbc.log_loss(np.array([1e4]), 0.0, x, y) == pytest.approx(1e4 / 3)
