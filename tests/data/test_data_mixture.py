import numpy as np
import pytest

from ssl_jax import data
from ssl_jax.core import UserError
from ssl_jax.data import mixture


def part(n: int, name: str, *, first: int = 0, shape=(2, 2, 1), classes=("a", "b")) -> data.Source:
    images = np.zeros((n, *shape), np.uint8)
    images[:] = (first + np.arange(n)).reshape(-1, 1, 1, 1) % 256
    return data.from_arrays(images, np.arange(n) % 2, classes, name=name)


def rows(source, seed: int, steps: int, batch_size: int) -> np.ndarray:
    return np.concatenate([source.indices(batch_size=batch_size, seed=seed, step=k) for k in range(steps)])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0.7*digits+0.3*photos", [(0.7, "digits"), (0.3, "photos")]),
        ("2 * folder:a+b + 1e-1 * tar:s-*.tar", [(2.0, "folder:a+b"), (0.1, "tar:s-*.tar")]),
        ("1*digits", [(1.0, "digits")]),
    ],
)
def test_weights_and_names(text, parts):
    assert mixture.parse(text) == parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digits+photos", "'digits.photos' in mixture:.* is not WEIGHT.DATA; write for example"),
        ("0.5*digits+0*photos", "weight of '0.photos' in mixture:.* is 0; give a positive number"),
        ("-1*digits", "is -1; give a positive"),
        ("nan*digits", "is nan; give a positive"),
        ("0.5*", "is not WEIGHT"),
        ("", "is not WEIGHT"),
    ],
)
def test_weights_that_make_no_sense(text, message):
    with pytest.raises(UserError, match=message):
        data.load(f"mixture:{text}")


def test_each_part_gives_its_share_of_an_epoch_and_goes_through_epochs_of_its_own():
    source = data.Mixture([part(30, "small"), part(90, "large")], [3, 1], "both")
    assert source.shares == (90, 30)  # three quarters of 120, of a part that has 30 images
    drawn = rows(source, 0, 24, 10)  # two epochs
    for epoch in drawn[:120], drawn[120:]:
        assert ((epoch < 30).sum(), (epoch >= 30).sum()) == (90, 30)
    small, large = drawn[drawn < 30], drawn[drawn >= 30] - 30
    for start in range(0, 180, 30):
        np.testing.assert_array_equal(np.sort(small[start : start + 30]), np.arange(30))
    assert len(set(large)) == 60  # the second epoch goes on where the first one stopped
    assert not np.array_equal(small[:30], small[30:60])


def test_batches_mix_all_along():
    source = data.Mixture([part(500, "a"), part(500, "b")], [1, 1], "both")
    of_first = [(source.indices(batch_size=50, seed=1, step=k) < 500).sum() for k in range(20)]
    assert min(of_first) > 15
    assert max(of_first) < 35


def test_order_is_a_pure_function_of_seed_and_step():
    make = lambda: data.Mixture([part(40, "a"), part(60, "b", first=40)], [0.2, 0.8], "both")  # noqa: E731
    forward = rows(make(), 3, 12, 16)
    source = make()
    backward = [source.indices(batch_size=16, seed=3, step=k) for k in reversed(range(12))]
    np.testing.assert_array_equal(np.concatenate(backward[::-1]), forward)
    assert not np.array_equal(rows(make(), 4, 12, 16), forward)


def test_no_example_twice_in_a_batch():
    source = data.Mixture([part(48, "a"), part(200, "b")], [0.6, 0.4], "both")
    for step in range(200):
        batch = source.indices(batch_size=16, seed=5, step=step)
        assert len(set(batch)) == 16, step


def test_batches_and_resume_and_processes():
    source = data.Mixture([part(40, "a"), part(60, "b", first=40)], [1, 1], "both")
    whole = [next_ for next_, _ in zip(data.batches(source, batch_size=8, seed=1), range(9), strict=False)]
    np.testing.assert_array_equal(whole[3]["image"][:, 0, 0, 0], whole[3]["id"])
    late = next(data.batches(source, batch_size=8, seed=1, start=5))
    np.testing.assert_array_equal(late["id"], whole[5]["id"])
    halves = [
        next(data.batches(source, batch_size=8, seed=1, start=5, process_index=i, process_count=2)) for i in range(2)
    ]
    np.testing.assert_array_equal(np.concatenate([half["id"] for half in halves]), whole[5]["id"])
    once = np.concatenate([batch["id"][batch["valid"]] for batch in data.epoch(source, 16)])
    np.testing.assert_array_equal(once, np.arange(100))  # for evaluation all images, each once


def test_by_name():
    source = data.load("mixture:0.9*digits+0.1*photos", "train[:100]", image_size=8, channels=1)
    assert (len(source), source.shares, source.classes) == (200, (180, 20), None)  # the classes differ
    assert set(next(data.batches(source, batch_size=4))) == {"image", "id"}
    other = data.load("mixture:0.8*digits+0.2*photos", "train[:100]", image_size=8, channels=1)
    assert other.fingerprint != source.fingerprint
    same = data.load("mixture:1*digits+2*digits", "train[:50]")
    np.testing.assert_array_equal(same.labels, np.tile(data.load("digits", "train[:50]").labels, 2))
    assert data.split_names("mixture:1*digits+1*photos") == ("train", "test")


def test_weights_from_python():
    with pytest.raises(UserError, match="the 2 weights of both must be positive, one a part, but one is -1"):
        data.Mixture([part(4, "a"), part(4, "b")], [1, -1], "both")
    with pytest.raises(UserError, match="the weight 1e-09 of b is too small: not one of the 8 images of an epoch of"):
        data.Mixture([part(4, "a"), part(4, "b")], [1, 1e-9], "both")


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("mixture:1*digits+photos", "train", r"no data 'digits\+photos'; .* a mixture, in which each has a weight"),
        ("mixture:1*digits+1*photos", "train[:2000]", "outside of the 1260 examples of digits train; use numbers up"),
        ("mixture:1*digits+1*photos", "train[5:5]", "holds no example of digits train: it runs from 5 to 5 of 1260"),
        ("mixture:1*digits+1*photos", "train+val", "digits has no split 'val'; it has train, test"),
    ],
)
def test_messages_name_the_part(name, split, message):
    with pytest.raises(UserError, match=message):
        data.load(name, split, image_size=8, channels=1)


def test_parts_of_different_shapes():
    message = "digits train are 8 x 8 x 1 and those of photos train are 32 x 32 x 3; give both an image_size"
    with pytest.raises(UserError, match=message):
        data.load("mixture:1*digits+1*photos")
    assert len(data.load("mixture:1*digits+1*photos", "train[:20]", image_size=16, channels=3)) == 40
