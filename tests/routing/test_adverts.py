"""Adverts on the wire: nothing is lost, nothing strange is believed, noise hides a sample."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfd_flower.routing import Advert, AdvertError, with_laplace_noise
from mfd_flower.routing.adverts import KEPT_CHARS, MAX_INT, SHORT
from mfd_flower.routing.sketch import CHARS, SIZE_BYTES

FULL = Advert(
    address="n3",
    label_counts=(4.0, 0.0, 2.5),
    samples=6,
    interest=0.25,
    flops_per_s=5e9,
    degree=8,
    heads=("w0=" + "0f" * 32, "w1=" + "a1" * 32),
    sequence=7,
    lifetime_s=60.0,
    hops_left=2,
    noise_epsilon=0.5,
    task="0123abcd",
    loss=1.25,
    sketch="A" * CHARS,
)

numbers = st.floats(0, MAX_INT)
wholes = st.integers(0, MAX_INT)
texts = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
sketch_texts = st.binary(min_size=SIZE_BYTES, max_size=SIZE_BYTES).map(
    lambda data: base64.urlsafe_b64encode(data).decode()
)
adverts = st.builds(
    Advert,
    address=texts,
    label_counts=st.lists(numbers, max_size=5).map(tuple),
    samples=wholes,
    interest=numbers,
    flops_per_s=st.floats(0, 1e300),
    degree=wholes,
    heads=st.lists(texts.map(lambda text: f"{text[:32]}={'0' * 64}"), max_size=8).map(tuple),
    sequence=wholes,
    lifetime_s=numbers | st.just(math.inf),
    hops_left=st.integers(0, 255),
    noise_epsilon=numbers,
    task=st.just("") | st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    loss=st.none() | numbers,
    sketch=st.just("") | sketch_texts,
)


def test_its_text_leaves_out_what_is_taken_for_granted() -> None:
    assert Advert("n1").to_text() == '{"a":"n1"}'
    counted = Advert("n1", label_counts=(2.0, 3.5), samples=6)
    assert counted.to_text() == '{"a":"n1","c":[2,3.5]}'
    assert dataclasses.replace(counted, samples=4).to_text() == '{"a":"n1","c":[2,3.5],"n":4}'


def test_every_field_has_a_short_name_of_its_own() -> None:
    names = [field.name for field in dataclasses.fields(Advert)]
    assert list(SHORT) == names
    assert len(set(SHORT.values())) == len(names)


def test_what_no_policy_asks_for_takes_no_byte() -> None:
    silent = dataclasses.replace(FULL, task="", loss=None, sketch="")
    assert len(FULL.to_text()) - len(silent.to_text()) == len(
        f',"k":"0123abcd","o":1.25,"s":"{"A" * CHARS}"'
    )
    assert not {"k", "o", "s"} & json.loads(silent.to_text()).keys()


def test_an_advert_without_end_says_nothing_of_its_lifetime() -> None:
    """It holds until a newer one comes; an end that is announced is finite."""
    endless = dataclasses.replace(FULL, lifetime_s=math.inf)
    assert '"t":' in FULL.to_text()
    assert '"t":' not in endless.to_text()
    assert Advert.from_text(endless.to_text()).lifetime_s == math.inf
    for wrong in ("Infinity", "1e999", "-1", "null", '"60"'):
        with pytest.raises(AdvertError, match=r"advert\.lifetime_s"):
            Advert.from_text(f'{{"a":"n1","t":{wrong}}}')


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("address", "", "up to 64 letters"),
        ("address", "n" * 65, "up to 64 letters"),
        ("address", "n1\n", "up to 64 letters"),
        ("address", 3, "up to 64 letters"),
        ("label_counts", [1.0, -1.0], "at least 0"),
        ("label_counts", [1.0, math.nan], "finite"),
        ("label_counts", [1.7e308] * 10, "at most 9007199254740992"),
        ("label_counts", [2**53 + 1], "at most 9007199254740992"),
        ("label_counts", [True], "must be a number"),
        ("label_counts", 4.0, "must be a list"),
        ("label_counts", [0.0] * 32_769, "at most 32768 values"),
        ("samples", True, "a whole number"),
        ("samples", 6.0, "a whole number"),
        ("samples", -1, "at least 0"),
        ("interest", math.inf, "finite"),
        ("flops_per_s", 10**400, "finite"),
        ("flops_per_s", "fast", "a number"),
        ("heads", ["w0=" + "0" * 64] * 9, "at most 8 values"),
        ("heads", ["w0=" + "0" * 63], "walker=hash"),
        ("heads", ["=" + "0" * 64], "walker=hash"),
        ("sequence", 2**53 + 1, "at most 9007199254740992"),
        ("hops_left", 256, "at most 255"),
        ("task", "tools", "8 hexadecimal digits"),
        ("task", "0123ABCD", "8 hexadecimal digits"),
        ("task", 12345678, "8 hexadecimal digits"),
        ("loss", -0.1, "at least 0"),
        ("loss", math.nan, "at least 0"),
        ("loss", math.inf, "finite"),
        ("loss", "low", "must be a number"),
        ("loss", True, "must be a number"),
        ("sketch", "A" * (CHARS - 1), "a sketch of 36 letters"),
        ("sketch", "A" * (CHARS + 4), "a sketch of 36 letters"),
        ("sketch", "A" * 10**6, "a sketch of 36 letters"),
        ("sketch", "A" * (CHARS - 1) + "=", "a sketch of 36 letters"),
        ("sketch", "A" * CHARS + "\n", "a sketch of 36 letters"),
        ("sketch", [0.0] * 27, "a sketch of 36 letters"),
    ],
)
def test_a_strange_field_is_refused_by_name(name: str, value: Any, accepted: str) -> None:
    with pytest.raises(AdvertError, match=accepted) as caught:
        Advert.from_text(json.dumps({**json.loads(FULL.to_text()), SHORT.get(name, name): value}))
    assert re.match(rf"advert\.{name}(\[\d+\])? = ", str(caught.value))
    assert len(str(caught.value)) < 300


def test_a_missing_field_is_refused_by_name() -> None:
    with pytest.raises(AdvertError, match=r"advert\.address = None: missing"):
        Advert.from_text('{"n":4}')


@given(advert=adverts)
def test_an_advert_survives_its_text(advert: Advert) -> None:
    assert Advert.from_text(advert.to_text()) == advert


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", '"n1"', '{"a":"n1","c":[NaN]}', '{"a":"n1","a":"n2"}', '{"address":"n1"}',
        '{"a":"n1","address":"n2"}', '{"a":"n1","v":["0"]}', "[" * 5000, '{"a":' + "9" * 5000 + "}",
    ],
)  # fmt: skip
def test_a_text_that_is_no_advert_is_refused(content: str) -> None:
    with pytest.raises(AdvertError, match=r"^advert\.") as caught:
        Advert.from_text(content)
    assert "\n" not in str(caught.value)


@given(content=st.text(max_size=40))
def test_any_text_is_refused_or_an_advert(content: str) -> None:
    try:
        heard = Advert.from_text(content)
    except AdvertError:
        return
    assert Advert.from_text(heard.to_text()) == heard


def test_laplace_noise_has_its_scale() -> None:
    """Far from 0 nothing is clipped: mean 0, mean absolute value 1 / epsilon (here 2)."""
    noise = np.array(with_laplace_noise((1e6,) * 20_000, 0.5, np.random.default_rng(0))) - 1e6
    # |Laplace(b)| has mean and standard deviation b: four standard errors are 4 x 2 / sqrt(20000).
    assert np.abs(noise).mean() == pytest.approx(2, abs=0.057)
    assert noise.mean() == pytest.approx(0, abs=0.08)


def test_likelihood_ratio_of_neighbouring_data_is_bounded_by_the_budget() -> None:
    """The definition of epsilon-differential privacy, on the events "the noised count is > t"."""
    epsilon, draws = 1.0, 40_000
    with_sample, without = (
        np.array(with_laplace_noise((count,) * draws, epsilon, np.random.default_rng(seed)))
        for seed, count in ((1, 51.0), (2, 50.0))
    )
    ratios = [(with_sample > t).mean() / (without > t).mean() for t in (49, 50, 51, 52)]
    assert max(ratios) < math.exp(epsilon) * 1.05
    # Above both counts the bound is reached, so less noise than stated would be seen here.
    assert ratios[-1] == pytest.approx(math.exp(epsilon), rel=0.05)


def test_a_noised_count_is_not_negative() -> None:
    noised = with_laplace_noise((0.0,) * 100, 0.1, np.random.default_rng(4))
    assert len(noised) == 100
    assert min(noised) == 0


def test_long_adverts_are_not_kept() -> None:
    """Many large ones from a stranger take no memory behind the message that they came in."""
    before = Advert._kept.cache_info().currsize
    for number in range(5):
        long = Advert("n7", label_counts=(0.5 + number,) * 2000).to_text()
        assert len(long) > KEPT_CHARS
        assert Advert.from_text(long).label_counts[0] == 0.5 + number
    assert Advert._kept.cache_info().currsize == before
