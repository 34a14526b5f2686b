"""What a search varies, as a user types it."""

from __future__ import annotations

import random

import pytest

from maml_rl.tools.search.space import Dimension, SpaceError, parse_space

NAMES = ("inner_lr", "hidden_sizes", "horizon", "activation", "layer_norm")


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("inner_lr=loguniform(0.02,0.5)", "loguniform", (0.02, 0.5)),
        (" inner_lr = uniform( -1 , 1e3 ) ", "uniform", (-1, 1000.0)),
        ("horizon=randint(1,3)", "randint", (1, 3)),
        ("inner_lr=choice(0.1)", "choice", (0.1,)),
        ("hidden_sizes=choice([8],[4,4])", "choice", ((8,), (4, 4))),
        ('activation=choice(relu,"tanh", elu)', "choice", ("relu", "tanh", "elu")),
        ("layer_norm=choice(True,false,None)", "choice", (True, False, None)),
    ],
)
def test_forms(text: str, kind: str, values: tuple[object, ...]) -> None:
    (dimension,) = parse_space([text], NAMES)
    assert (dimension.kind, dimension.values) == (kind, values)
    # What is stored in a search's description says the same.
    assert parse_space([str(dimension)], NAMES) == [dimension]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "space is empty"),
        (["inner_lr"], "space is 'inner_lr'; it must be NAME=loguniform"),
        (["inner_lr=0.1,0.2"], "it must be NAME=loguniform"),
        (["inner_lr=normal(0,1)"], "inner_lr is drawn by 'normal'"),
        (["nothing=uniform(0,1)"], "space names the field 'nothing'; it must be one of: activation"),
        (["inner_lr=uniform(0,1)", "inner_lr=choice(1)"], "space names the field 'inner_lr' twice"),
        (["inner_lr=choice()"], "a choice needs at least one value"),
        (["inner_lr=loguniform(0,1)"], r"of numbers with 0 < LOW < HIGH"),
        (["inner_lr=uniform(1,1)"], r"of numbers with LOW < HIGH"),
        (["inner_lr=uniform(1)"], r"uniform\(LOW,HIGH\) of numbers"),
        (["inner_lr=uniform(a,b)"], r"uniform\(LOW,HIGH\) of numbers"),
        (["inner_lr=uniform(0,Infinity)"], r"uniform\(LOW,HIGH\) of numbers"),
        (["inner_lr=uniform(False,True)"], r"uniform\(LOW,HIGH\) of numbers"),
        (["horizon=randint(1,2.5)"], r"of integers with LOW < HIGH"),
        (["inner_lr=choice(__import__('os'))x"], "it must be NAME="),
    ],
)
def test_what_is_no_space_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        parse_space(texts, NAMES)


def test_draws_are_within_the_space() -> None:
    random.seed(0)
    for text, low, high in (
        ("horizon=randint(1,3)", 1, 3),
        ("inner_lr=loguniform(0.1,1)", 0.1, 1.0),
        ("inner_lr=uniform(-2,-1)", -2, -1),
    ):
        (dimension,) = parse_space([text], NAMES)
        drawn = dimension.domain().sample(size=500)
        assert min(drawn) >= low
        assert max(drawn) <= high
        assert max(drawn) - min(drawn) > 0.8 * (high - low)
        if dimension.kind == "randint":
            assert set(drawn) == {1, 2, 3}


def test_lists_are_drawn_as_text_and_come_back() -> None:
    dimension = Dimension("hidden_sizes", "choice", ((8,), (4, 4), 3, "x"))
    assert dimension.choices() == ["[8]", "[4, 4]", 3, "x"]
    assert [dimension.decoded(value) for value in dimension.choices()] == list(dimension.values)
    assert dimension.encoded([4, 4]) == "[4, 4]"
    assert set(dimension.domain().sample(size=50)) == set(dimension.choices())


def test_what_leaves_the_bounds_is_brought_back() -> None:
    dimension = Dimension("inner_lr", "uniform", (0.5, 1.0))
    assert [dimension.clipped(value) for value in (0.4, 0.7, 1.2)] == [0.5, 0.7, 1.0]
    assert Dimension("x", "choice", (1, 2)).clipped(2) == 2
