"""Train the small teacher of `distillation:test` anew: `python -m benchmarks.digits_teacher [FILE]`, half a minute.

SimCLR on scikit-learn's digits with a two-layer network, and a classifier from ten labels per class.
"""

import pathlib
import sys
import tempfile

import numpy as np

from ssl_jax import interop, teachers
from ssl_jax.configs import distillation, quickstart
from ssl_jax.experiment import build
from ssl_jax.pretrain import pretrain

FILE = pathlib.Path(__file__).parents[1] / "configs" / "digits_teacher.npz"


def main(file: str | pathlib.Path = FILE) -> None:
    """Train, label and write."""
    config = quickstart.get_config("test")
    config.update(steps=600, warmup_epochs=2.0, learning_rate=3e-3, checkpoint_every=600, log_every=100)
    parts = build(config)
    view = teachers.View(source=parts.source, shape=(8, 8, 1), prepare=parts.prepare)
    with tempfile.TemporaryDirectory() as directory:
        pretrain(config, directory)
        config.teacher = distillation.no_teacher()
        config.teacher.update(workdir=directory, labels_per_class=10)
        teacher = teachers.load(config, view)
    head = {name: x.astype(np.float32) for name, x in (teacher.head or {}).items()}
    variables = teacher.variables
    interop.save_encoder(file, teacher.module(), variables["params"], variables["model_state"], head=head, own=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
