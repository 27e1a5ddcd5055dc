"""iBOT: DINO for whole images, and for patches that the student does not see (Zhou et al., ICLR 2022; DINOv2).

Blocks of patches are hidden from the student, which predicts the prototypes that its teacher, a moving average that
sees the whole view, finds for each hidden patch; besides, class tokens agree across views as in DINO. DINOv2 (Oquab
et al., 2023) makes both targets with Sinkhorn-Knopp and keeps class tokens apart with the KoLeo loss.

https://arxiv.org/abs/2111.07832 and https://arxiv.org/abs/2304.07193
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from ssl_jax import augment, collapse, losses, small_data
from ssl_jax.checks import check_momentum, check_positive, crops_of
from ssl_jax.core import Card, Carry, Method, UserError
from ssl_jax.memory import ema
from ssl_jax.nets import ViT, functional
from ssl_jax.nets.prototypes import PrototypeHead, columns, scores
from ssl_jax.schedules import Schedule, value_at

CARD = Card(
    family="teacher and student",
    papers=("2111.07832", "2304.07193"),
    encoders="ViT",
    state=("teacher", "center", "patch_center"),
    published="77.9 linear, ViT-S/16, 800 epochs",
)


def ibot(
    encoder: nn.Module,
    *,
    prototypes: int | None = 8192,
    hidden: int = 2048,
    bottleneck: int = 256,
    train_norms: bool = False,
    shared_head: bool = True,
    temperature: float = 0.1,
    teacher_temperature: float | Schedule | None = 0.04,
    patch_temperature: float | Schedule | None = 0.04,
    momentum: float | Schedule | None = 0.996,
    center_momentum: float = 0.9,
    sinkhorn: bool = False,
    koleo: float = 0.0,
    patch_weight: float = 1.0,
    mask_ratio: tuple[float, float] = (0.1, 0.5),
    mask_probability: float = 0.5,
    examples: int | None = None,
    steps: int | None = None,
    form: str = "auto",
) -> Method:
    """Build iBOT, or DINOv2's objective with `sinkhorn=True, koleo=0.1, shared_head=False, train_norms=True`.

    The batch's views are a tuple of arrays, one for each size, of which the first holds the large views that the
    teacher sees and of which patches are hidden (`augment.dino`).

    Args:
      encoder: a `nets.ViT`. Its field `drop_path` holds for the student only.
      prototypes: number of outputs; None leaves it to `examples`, see `small_data`.
      hidden: width of the heads' hidden layers.
      bottleneck: width of the embedding that is compared with the prototypes.
      train_norms: train the prototypes' norms too, as the recipes of both papers do.
      shared_head: one head for class tokens and patches, which the paper finds better; DINOv2 has two.
      temperature: of the student's predictions, > 0.
      teacher_temperature: of the class tokens' targets, a number or a schedule; None leaves it to `examples`, `steps`.
      patch_temperature: likewise of the patches' targets.
      momentum: of the teacher's average, likewise.
      center_momentum: of the two centres.
      sinkhorn: make targets with three iterations of Sinkhorn-Knopp over the batch instead of centring.
      koleo: weight of the KoLeo loss of the student's class tokens, summed over the large views.
      patch_weight: weight of the patches' loss beside that of the class tokens.
      mask_ratio: range of the share of patches hidden in a view.
      mask_probability: of hiding any.
      examples: number of images in the data, for what is None.
      steps: length of the run, likewise.
      form: how to make the patches' scores: "dense" has those of all patches at once; "tiled" makes those of hidden
        patches, 2^24 of a device at a time (`losses.tiled_masked_cross_entropy`), with the same loss and gradient.
        "auto" is tiled beyond 2^26 scores, of patches x prototypes of the whole batch.

    Differs from the authors' code in: dense scores all patches, where DINOv2 picks the hidden ones out first.
    The patches' loss is a mean over the hidden patches of a view, then over all views, as in both.

    Raises:
      UserError: the encoder is not a ViT, a number is out of range, something is left to `examples` or `steps` that
        are not given, or (from the functions) a batch has fewer than two views.
    """
    if not isinstance(encoder, ViT):
        raise UserError(f"iBOT hides patches, so its encoder must be a ViT, not a {type(encoder).__name__}.")
    if prototypes is None:
        prototypes = small_data.prototypes(small_data.known(examples, "examples", "prototypes"), 8192)
    teacher_temperature, patch_temperature, momentum = (
        default(small_data.known(examples, "examples", name), small_data.known(steps, "steps", name))
        if value is None
        else value
        for name, value, default in (
            ("teacher_temperature", teacher_temperature, small_data.teacher_temperature),
            ("patch_temperature", patch_temperature, small_data.teacher_temperature),
            ("momentum", momentum, small_data.teacher_momentum),
        )
    )
    losses.check_form(form, losses.WITHOUT_RING)
    check_positive(prototypes=prototypes, hidden=hidden, bottleneck=bottleneck, temperature=temperature)
    for value in (teacher_temperature, patch_temperature):
        check_positive(teacher_temperature=float(value_at(value, jnp.zeros((), jnp.int32))))
    for value in (momentum, center_momentum):
        check_momentum(value)
    if koleo < 0 or patch_weight < 0:
        raise UserError(f"Weights of losses can't be negative, but are koleo={koleo}, patch_weight={patch_weight}.")
    draw = functools.partial(augment.block_mask, ratio=mask_ratio, probability=mask_probability)
    jax.eval_shape(functools.partial(draw, grid=(2, 2)), jax.random.key(0))  # complains now rather than in the step
    head = PrototypeHead(prototypes, hidden, bottleneck, train_norms=train_norms, dtype=encoder.dtype)
    trunk = head.clone(scored=False)
    patch_head = "head" if shared_head else "patch_head"
    student = encoder.clone(mask_token=True)
    calm = student.clone(drop_path=0.0)

    def hide(rng, crop):
        """Which patches of large views [b v h w c] the student does not see, [b v n]."""
        b, v, height, width, _ = crop.shape
        grid = (height // encoder.patch, width // encoder.patch)
        mask = jax.vmap(functools.partial(draw, grid=grid))(jax.random.split(rng, b * v))
        return mask.reshape(b, v, -1)

    def tokens_of(network, params, crop, rng, mask=None):
        """All tokens [b v 1+n d] after the last norm, and the pooled features [b v d]."""
        rows = crop.reshape(-1, *crop.shape[2:])
        mask = None if mask is None else mask.reshape(len(rows), -1)
        pooled, maps, _ = functional.encode(network, params["encoder"], {}, rows, train=True, rng=rng, mask=mask)
        return tuple(x.reshape(*crop.shape[:2], *x.shape[1:]) for x in (maps["tokens"], pooled))

    def score(params, tokens):
        """Scores of tokens [... d] with a head's parameters."""
        (found, _), _ = functional.apply(head, params, {}, tokens.reshape(-1, tokens.shape[-1]), train=True)
        return found.reshape(*tokens.shape[:-1], -1)

    def embed(params, rows):
        """Unit vectors of rows [r d], which scores are made of."""
        return functional.apply(trunk, params, {}, rows, train=True)[0][1]

    def targets_of(given, center, tau, where=None):
        """Targets for given scores [... k], and the next centre."""
        if sinkhorn:
            flat = losses.sinkhorn(given.reshape(-1, prototypes), epsilon=tau, where=where)
            return flat.reshape(given.shape), center
        mean = jnp.mean(given.reshape(-1, prototypes), axis=0)
        return losses.soft_targets(given, center, tau), ema(center, mean, center_momentum)

    def dense(params, tokens, teacher, seen, mask, center, tau):
        """The patches' loss and the next centre, with all scores at once."""
        targets, center = targets_of(score(teacher, seen), center, tau, where=mask.reshape(-1))
        return losses.masked_cross_entropy(targets, score(params, tokens), mask, temperature=temperature), center

    def tiled(params, tokens, teacher, seen, mask, center, tau):
        """As `dense`, with a tile of scores at a time."""
        embedding, last = embed(teacher, seen.reshape(-1, seen.shape[-1])), columns(teacher["last"], encoder.dtype)
        asked = losses.Patches(lambda last, rows: scores(rows, last), last, embedding.reshape(*mask.shape, -1))
        if sinkhorn:
            used = losses.tiled_sinkhorn_center(asked, mask, epsilon=tau)
        else:  # the mean of scores is the score of the mean
            mean = jnp.mean(embedding.astype(last.dtype), axis=0, dtype=embedding.dtype, keepdims=True)
            used, center = center, ema(center, scores(mean, last.astype(mean.dtype))[0], center_momentum)
        trained = {name: p for name, p in params.items() if name != "last"}, columns(params["last"], encoder.dtype)
        answers = losses.Patches(lambda p, rows: scores(embed(p[0], rows), p[1]), trained, tokens)
        how = {"teacher_temperature": tau, "temperature": temperature}
        return losses.tiled_masked_cross_entropy(asked, answers, mask, used, **how), center

    def init(rng, batch):
        encoder_rng, head_rng, patch_rng = jax.random.split(rng, 3)
        encoder_params, encoder_state, pooled, _ = functional.init_encoder(
            student, encoder_rng, crops_of(batch)[0][:, 0]
        )
        params = {"encoder": encoder_params, "head": functional.init(head, head_rng, pooled)[0]}
        if not shared_head:
            params["patch_head"] = functional.init(head, patch_rng, pooled)[0]
        state, center = {"encoder": encoder_state}, jnp.zeros((prototypes,), jnp.float32)
        return params, Carry(
            model_state=state,
            teacher={"params": params, "model_state": state},
            memory={"center": center, "patch_center": center},
        )

    def loss(params, carry, batch, rng, step):
        crops = crops_of(batch, views=2)
        mask_rng, *rngs = jax.random.split(rng, 1 + len(crops))
        mask = hide(mask_rng, crops[0])
        teacher, memory = lax.stop_gradient((carry.teacher["params"], carry.memory))
        seen, _ = tokens_of(calm, teacher, crops[0], rngs[0])
        tau = value_at(teacher_temperature, step)
        targets, center = targets_of(score(teacher["head"], seen[:, :, 0]), memory["center"], tau)
        large, pooled = tokens_of(student, params, crops[0], rngs[0], mask)
        small = [tokens_of(student, params, crop, r)[0][:, :, 0] for crop, r in zip(crops[1:], rngs[1:], strict=True)]
        predicted = score(params["head"], jnp.concatenate([large[:, :, 0], *small], axis=1))
        class_loss = losses.cross_view_entropy(targets, predicted, temperature=temperature)
        patches = tiled if losses.is_tiled(form, rows=mask.size, columns=prototypes) else dense
        patch_loss, patch_center = patches(
            params[patch_head],
            large[:, :, 1:],
            teacher[patch_head],
            seen[:, :, 1:],
            mask,
            memory["patch_center"],
            value_at(patch_temperature, step),
        )
        value = class_loss + patch_weight * patch_loss
        if koleo:
            value = value + koleo * sum(losses.koleo(large[:, i, 0]) for i in range(large.shape[1]))
        metrics = {
            **losses.usage(targets, lax.stop_gradient(class_loss)),
            "class_loss": class_loss,
            "patch_loss": patch_loss,
            "hidden_patches": jnp.mean(mask.astype(jnp.float32)),
            "features": pooled[:, 0],
        }
        memory = {"center": center, "patch_center": patch_center}
        return value, (carry.replace(memory=memory), metrics)

    def update(params, carry, step):
        average = ema(carry.teacher["params"], params, value_at(momentum, step))
        return carry.replace(teacher={**carry.teacher, "params": average})

    def nearness(params, carry, image):
        teacher = carry.teacher["params"]
        _, maps, _ = functional.encode(calm, teacher["encoder"], {}, image, train=False)
        found = score(teacher[patch_head], maps["grid"])
        return {"patches": found - carry.memory["patch_center"][None, None, None]}

    return Method(
        name="ibot",
        init=init,
        loss=loss,
        encode=functional.encode_with(student),
        update=update,
        warn=collapse.prototypes(prototypes),
        words=nearness,
    )
