"""Equality with torchvision's operations."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax import augment


@pytest.mark.parametrize("name", ["smooth", "noise"])
def test_all(fixture, name):
    data = fixture("aug_tensor")
    image = jnp.asarray(data[f"{name}/image"])
    n = 0
    for key, expected in data.items():
        kind, what = key.split("/")
        if kind != name or what == "image":
            continue
        op, *rest = what.split("_")
        if op in ("brightness", "contrast", "saturation", "hue"):
            got = getattr(augment, f"adjust_{op}")(image, float(rest[0]))
        elif op == "grayscale":
            got = augment.to_grey(image)
        elif op == "solarize":
            got = augment.solarize(image)
        elif op == "hflip":
            got = augment.flip_left_right(image)
        elif op == "blur":
            got = augment.gaussian_blur(image, float(rest[1][1:]), taps=int(rest[0][1:]))
        elif op == "normalize":
            got = augment.normalize(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        elif op == "jitter":
            got = augment.color_jitter(
                image,
                jnp.array([1.3, 0.7, 1.5, -0.08], jnp.float32),
                jnp.array(["bcsh".index(letter) for letter in rest[0]]),
            )
        elif op == "crop":
            got = augment.crop_and_resize(
                image,
                jnp.array([int(r) for r in rest[:4]]),
                (16, 16),
                method={"bilinear": "linear", "bicubic": "cubic"}[rest[4]],
                antialias=rest[5] == "aa",
            )
        else:
            raise AssertionError(what)
        np.testing.assert_allclose(got, expected, atol=1e-5, err_msg=what)
        n += 1
    assert n == 43
