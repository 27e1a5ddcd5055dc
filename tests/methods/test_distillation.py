import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from values import assert_close

from ssl_jax import embed, init_state, losses, make_train_step, methods, nets
from ssl_jax.core import UserError
from ssl_jax.data import from_arrays
from ssl_jax.nets import functional

ZERO = jnp.zeros((), jnp.int32)
STUDENT, TEACHER = nets.ConvNet((3,), pool=(1,)), nets.ConvNet((5, 4), pool=(1, 2))
CLASSES = 3


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    views = jnp.asarray(rng.normal(size=(8, 2, 6, 6, 1)), jnp.float32)
    return {"views": views, "label": jnp.arange(8, dtype=jnp.int32) % CLASSES}


@pytest.fixture(scope="module")
def taught(batch):
    """Keyword arguments of a teacher whose running statistics are not those of its start."""
    params, state = functional.init(TEACHER, jax.random.key(7), batch["views"][:, 0])
    _, _, state = functional.encode(TEACHER, params, state, batch["views"][:, 1], train=True)
    kernel = np.random.default_rng(1).normal(size=(20, CLASSES)).astype(np.float32)
    head = {"kernel": kernel, "bias": np.asarray([0.5, -1, 0], np.float32)}
    return {"teacher": TEACHER, "variables": {"params": params, "model_state": state}, "head": head}


def start(batch, taught, **arguments):
    method = methods.distillation(STUDENT, **taught, **arguments)
    params, carry = jax.jit(method.init)(jax.random.key(0), batch)
    return method, params, carry


def pooled_of(taught, views):
    """The teacher on every view, `[b v d]`, with its running statistics."""
    found = [
        functional.encode(TEACHER, taught["variables"]["params"], taught["variables"]["model_state"], x, train=False)[0]
        for x in jnp.moveaxis(views, 1, 0)
    ]
    return np.stack(found, axis=1).astype(np.float64)


def logits_of(params, metrics):
    """The student's linear projector on the features it reports, in float64."""
    layer = jax.tree.map(np.asarray, params["projector"]["dense0"])
    return np.asarray(metrics["features"], np.float64) @ layer["kernel"] + layer["bias"]


def one_view(batch):
    return {**batch, "views": batch["views"][:, :1]}


def test_soft_labels_are_those_of_the_teacher_on_the_very_view_of_the_student(batch, taught):
    batch = one_view(batch)
    method, params, carry = start(batch, taught, loss="soft", temperature=2.0, labels_weight=0.25)
    assert method.labels
    loss, (_, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), ZERO)
    p = pooled_of(taught, batch["views"])[:, 0] @ taught["head"]["kernel"] + taught["head"]["bias"]
    q = logits_of(params, metrics)
    log = lambda x: x - np.log(np.exp(x).sum(axis=1, keepdims=True))  # noqa: E731
    soft = 4 * (np.exp(log(p / 2)) * (log(p / 2) - log(q / 2))).sum(axis=1).mean()
    entropy = -log(q)[np.arange(8), batch["label"]].mean()
    assert_close(metrics["soft_labels"], soft)
    assert_close(metrics["cross_entropy"], entropy)
    assert_close(loss, 0.75 * soft + 0.25 * entropy)
    assert_close(metrics["agreement"], (p.argmax(1) == q.argmax(1)).mean())
    assert not methods.distillation(STUDENT, **taught, loss="soft").labels


def test_features_are_standardised_over_the_batch_and_compared_by_direction(batch, taught):
    batch = one_view(batch)
    method, params, carry = start(batch, taught)
    loss, (_, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), ZERO)
    target = pooled_of(taught, batch["views"])[:, 0]
    target = (target - target.mean(0)) / np.sqrt(target.var(0) + 1e-5)
    ours = logits_of(params, metrics)
    cosine = (ours * target).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(target, axis=1)
    assert_close(loss, (2 - 2 * cosine).mean())
    assert_close(metrics["embedding"], ours)


def test_all_views_count_alike(batch, taught):
    """Two views are the same as a batch with twice the examples."""
    for arguments in ({}, {"loss": "soft", "labels_weight": 0.5}):
        method, params, carry = start(batch, taught, **arguments)
        loss = jax.jit(method.loss)
        two, _ = loss(params, carry, batch, jax.random.key(1), ZERO)
        flat = {"views": batch["views"].reshape(16, 1, 6, 6, 1), "label": jnp.repeat(batch["label"], 2)}
        assert_close(loss(params, carry, flat, jax.random.key(1), ZERO)[0], two)


def test_mixup_shows_the_same_mixed_images_to_both(batch, taught):
    batch = one_view(batch)
    method, params, carry = start(batch, taught, loss="soft", mixup=True)
    plain, _, _ = start(batch, taught, loss="soft")
    loss, _ = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), ZERO)
    mix_rng, _ = jax.random.split(jax.random.key(1))
    weight = jax.random.uniform(mix_rng, (8, 1, 1, 1, 1))
    mixed = weight * batch["views"] + (1 - weight) * batch["views"][::-1]
    expected, _ = jax.jit(plain.loss)(params, carry, {**batch, "views": mixed}, jax.random.key(1), ZERO)
    assert_close(loss, expected)
    assert 0.0 < weight.min() < 0.5 < weight.max() < 1.0


def test_mixup_mixes_true_labels_as_it_does_images(batch, taught):
    batch = one_view(batch)
    method, params, carry = start(batch, taught, loss="soft", mixup=True, labels_weight=0.5)
    _, (_, metrics) = jax.jit(method.loss)(params, carry, batch, jax.random.key(1), ZERO)
    mix_rng, _ = jax.random.split(jax.random.key(1))
    weight = np.asarray(jax.random.uniform(mix_rng, (8, 1, 1, 1, 1)), np.float64).ravel()
    q, label = logits_of(params, metrics), np.asarray(batch["label"])
    log_q = q - np.log(np.exp(q).sum(axis=1, keepdims=True))
    rows = np.arange(8)
    assert (label != label[::-1]).any()
    expected = weight * log_q[rows, label] + (1 - weight) * log_q[rows, label[::-1]]
    assert_close(metrics["cross_entropy"], -expected.mean())


@pytest.mark.parametrize("arguments", [{}, {"loss": "soft", "mixup": True}])
def test_the_teacher_gets_no_gradient_and_keeps_every_bit(batch, taught, arguments):
    method, params, carry = start(batch, taught, **arguments)

    def loss(params, teacher):
        return method.loss(params, carry.replace(teacher=teacher), batch, jax.random.key(1), ZERO)[0]

    own, frozen = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, carry.teacher)
    assert all(np.any(x) for x in jax.tree.leaves(own["projector"]))
    assert np.any(own["encoder"]["stage1_conv"]["kernel"])
    assert not any(np.any(x) for x in jax.tree.leaves(frozen))
    tx = optax.adamw(0.1)
    state, views = init_state(method, tx, batch), {**batch, "id": jnp.arange(8, dtype=jnp.int32)}
    step = make_train_step(method, tx)
    for _ in range(3):
        state, _ = step(state, views)
    kept = {"encoder": taught["variables"]["params"], **({"head": taught["head"]} if arguments else {})}
    expected = {"params": kept, "model_state": {"encoder": taught["variables"]["model_state"]}}
    jax.tree.map(np.testing.assert_array_equal, state.carry.teacher, expected)


def test_the_loss_reads_the_teacher_of_the_state_and_not_of_the_factory(batch, taught):
    """So that a restored run has the teacher it was saved with."""
    _, params, carry = start(batch, taught, loss="soft")
    zeros = jax.tree.map(np.zeros_like, {name: taught[name] for name in ("variables", "head")})
    other, _, _ = start(batch, {**taught, **zeros}, loss="soft")
    own, _, _ = start(batch, taught, loss="soft")
    values = [m.loss(params, carry, batch, jax.random.key(1), ZERO)[0] for m in (own, other)]
    assert values[0] == values[1] != 0


def test_either_network_can_be_evaluated_whatever_its_architecture(batch, taught):
    images = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 1), np.uint8)
    source = from_arrays(images, np.arange(4))
    for arguments in ({}, {"loss": "soft"}):
        method, _, _ = start(batch, taught, **arguments)
        state = init_state(method, optax.sgd(0.1), batch)
        assert embed(method, state, source).shape == (4, 3)
        features = embed(method, state, source, encoder="teacher")
        assert_close(features, pooled_of(taught, jnp.asarray(images, jnp.float32)[:, None] / 255)[:, 0])


def test_the_loss_is_zero_for_a_student_that_is_the_teacher(batch, taught):
    method = methods.distillation(TEACHER, **taught, loss="soft")
    params, carry = method.init(jax.random.key(0), batch)
    frozen, state = carry.teacher["params"], taught["variables"]["model_state"]
    output, _, _ = functional.encode(TEACHER, frozen["encoder"], state, batch["views"][:, 0], train=False)
    logits = output @ frozen["head"]["kernel"] + frozen["head"]["bias"][None]
    assert params["projector"]["dense0"]["kernel"].shape == frozen["head"]["kernel"].shape
    assert losses.soft_labels(logits, logits) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be above 0, but is 0.0"),
        ({"layers": 0}, "`layers` must be above 0"),
        ({"loss": "hard"}, "loss is features or soft, not 'hard'"),
        ({"labels_weight": 1.5, "loss": "soft"}, r"`labels_weight` must be in 0..1, but is 1.5"),
        ({"labels_weight": 0.5}, 'needs the classes of loss="soft"'),
        ({"loss": "soft", "head": None}, "need a teacher with a classifier, and this one has none"),
        (
            {"loss": "soft", "head": {"kernel": np.zeros((7, 3), np.float32), "bias": np.zeros(3, np.float32)}},
            r"classifier takes 7 features, but the teacher gives 20",
        ),
    ],
)
def test_impossible_settings_are_refused(batch, taught, arguments, message):
    with pytest.raises(UserError, match=message):
        methods.distillation(STUDENT, **{**taught, **arguments}).init(jax.random.key(0), batch)
