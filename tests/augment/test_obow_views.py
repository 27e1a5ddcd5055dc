"""OBoW's views: sizes, the clean view of the teacher, and patches on a grid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import UserError, augment


@pytest.mark.parametrize(("size", "sizes"), [(224, (224, 160, 96)), (28, (28, 20, 12)), (8, (8, 6, 3))])
def test_sizes_are_the_papers_shares(size, sizes):
    make = augment.obow(size)
    side = round(size * 256 / 224)
    image = jax.ShapeDtypeStruct((2, side, side, 3), np.uint8)
    made = jax.eval_shape(make, jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2)), image)
    assert [x.shape for x in made] == [(2, v, s, s, 3) for v, s in zip((1, 2, 5), sizes, strict=True)]


def test_the_teacher_sees_the_clean_centre_mirrored_or_not():
    image = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    keys = jax.random.split(jax.random.key(0), 16)
    [teacher, crops] = jax.jit(augment.obow(28, crops=1, patches=0, crop_size=12, blur=False))(keys, image)
    assert crops.shape == (16, 1, 12, 12, 3)
    centre = image[:, 2:30, 2:30] / np.float32(255)
    same = np.isclose(teacher[:, 0], centre, atol=1e-6).all((1, 2, 3))
    mirrored = np.isclose(teacher[:, 0], centre[:, :, ::-1], atol=1e-6).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 0 < same.sum() < 16


def test_patches_are_distinct_squares_of_a_moved_grid():
    """As the authors' `CropImagePatches`: steps of (256 - 96 - 24) // 2 = 68, moved by 0 to 24 pixels."""
    rows, columns = jnp.meshgrid(jnp.arange(256.0), jnp.arange(256.0), indexing="ij")
    image, seen, moved = jnp.stack([rows, columns], -1), set(), []
    cut = jax.jit(lambda key: augment.grid_patches(key, image, size=96, count=5, jitter=24))
    for seed in range(40):
        patches = np.asarray(cut(jax.random.key(seed)))
        corners = patches[:, 0, 0].astype(int)
        np.testing.assert_array_equal(patches[:, -1, -1], corners + 95)
        cells = corners // 68
        assert len(np.unique(cells, axis=0)) == 5
        seen |= {tuple(map(int, cell)) for cell in cells}
        moved.append(corners - 68 * cells)
    assert len(seen) == 9
    assert (np.min(moved), np.max(moved)) == (0, 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"crops": 0}, "at least one crop"),
        ({"patches": 10}, "0 to 9 patches"),
        ({"patch_size": 40}, "don't fit into a view of 32"),
        ({"centre": 0.0}, r"share of the image in \(0, 1\]"),
    ],
)
def test_views_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        augment.obow(28, **arguments)
