"""The contract: a self-supervised method is a frozen record of pure functions over explicit pytrees.

State goes in and comes out as plain arrays; nothing mutates and nothing hides inside a loss or a module. Everything
else in the library (the sharded step, checkpoints, evaluation) is written once, against the names in this file.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import struct
from jaxtyping import Array

PyTree = Any
Metrics = dict[str, Array]


class Carry(struct.PyTreeNode):
    """What a method remembers between steps besides the parameters that gradients train.

    Attributes:
      model_state: batch statistics of the online networks, one entry per network (same names as in `params`).
      teacher: `{"params": ..., "model_state": ...}` of a moving-average or frozen network, or None.
      memory: named arrays such as queues, centres or vocabularies, or None.
    """

    model_state: PyTree
    teacher: PyTree = None
    memory: PyTree = None


class TrainState(struct.PyTreeNode):
    """All that a run needs to go on, as arrays only: no functions, no optimizer object.

    No field is annotated as an array, since trees of shapes or shardings have the same fields.

    Attributes:
      step: number of updates made so far, int32 scalar.
      rng: the run's key; every draw folds the step (and the example's id) into it, so it never changes.
      params: trained parameters, `{"encoder": ..., "projector": ..., ...}`.
      carry: see `Carry`.
      opt_state: state of the optax optimizer.
    """

    step: PyTree
    rng: PyTree
    params: PyTree
    carry: Carry
    opt_state: PyTree


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Method:
    """A self-supervised method: five pure functions, and what those who watch a run need to know.

    A batch is a dict. Methods read `batch["views"]`, float views of each example with the view axis after the batch
    axis, `[b v h w c]`, or a tuple of such arrays when views differ in size. The training step makes them from
    `batch["image"]`; a user's own loop may bring its own. `batch["id"]` int32 `[b]` is the row in the data.

    Attributes:
      init: `(rng, batch) -> (params, carry)`; traceable, so that it can run under `jit` with output shardings.
      loss: `(params, carry, batch, rng, step) -> (loss, (carry, metrics))`, the only function that is differentiated.
        `metrics` holds scalars, and may hold two arrays that monitors read: `"embedding"` `[n d]`, what the loss
        compares, and `"features"` `[b d]`, the encoder's pooled output for the first view of each example.
      encode: `(params, carry, image [b h w c]) -> (pooled [b d], maps)`, with running statistics; `maps` is a dict of
        named feature maps. What k-NN, linear probes, exports and users see.
      module: the linen module that `encode` is, of the encoder's own variables, where that is not the encoder on the
        image itself: what is trained further, for example by fine-tuning. None elsewhere.
      update: `(params, carry, step) -> carry`, called after the optimizer: for example teacher <- EMA(params).
      refresh: work between rounds, `(rng, params, carry, batches) -> (params, carry)`, or None. `batches` is an endless
        iterator of batches as `loss` sees them. The optimizer starts anew afterwards. Not traced: it may loop.
      name: short lower-case name, for messages.
      separable: whether the loss is a mean over examples that meet nowhere but in batch norms, so that gradients of
        parts of a batch may be averaged (`micro_batches.gradient_accumulation`).
      labels: whether the loss reads `batch["label"]`, int32 `[b]`.
      warn: `(scalars of a step) -> sentence or None`: the sign of collapse that fits the method, see `collapse`.
      pictures: `(params, carry, batch, rng) -> {name: images [n h w c]}`, on the scale of the views: what a method that
        makes images has to show (reconstructions, samples), or None.
      words: `(params, carry, image [b h w c]) -> {vocabulary: scores [b p q k]}`, with running statistics: how near
        each of p x q places of an image is to each visual word, greater is nearer, `-inf` at places that the method
        leaves out. Prototypes of whole images have one place. None for methods without a vocabulary.
    """

    name: str
    init: Callable[..., tuple[PyTree, Carry]]
    loss: Callable[..., tuple[Array, tuple[Carry, Metrics]]]
    encode: Callable[..., tuple[Array, dict[str, Array]]]
    module: Any = None
    update: Callable[[PyTree, Carry, Array], Carry] = lambda params, carry, step: carry
    refresh: Callable[..., tuple[PyTree, Carry]] | None = None
    separable: bool = False
    labels: bool = False
    warn: Callable[[Mapping[str, float]], str | None] = lambda logged: None
    pictures: Callable[..., dict[str, Array]] | None = None
    words: Callable[..., dict[str, Array]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """What a method's module says about itself, for tables and documentation.

    Attributes:
      family: "input space", "pretext", "contrastive", "teacher and student", "decorrelation and clustering" or
        "yardstick".
      papers: arXiv numbers, or addresses of papers that are not there.
      encoders: which encoders it can use, for example "any", "ViT", "any with a map".
      state: what it remembers besides batch statistics: "teacher", and the names of the arrays in `Carry.memory`.
      published: the authors' figure with its setting, for example "69.1 linear, ResNet-50, 1000 epochs".
    """

    family: str
    papers: tuple[str, ...]
    encoders: str = "any"
    state: tuple[str, ...] = ()
    published: str = ""


class UserError(ValueError):
    """Bad input from a user. The command line prints its one sentence, without a traceback."""
