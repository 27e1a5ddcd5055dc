"""What keeps methods without negatives from collapsing: the stop-gradient, centring, sharpening."""

import numpy as np

from benchmarks.claims.finding import Finding, spread, verdict
from benchmarks.claims.runs import Budget, last, logged, pretrain

Figures = dict[str, dict[str, list[float]]]


def stop_gradient(budget: Budget) -> Finding:
    """BYOL and SimSiam without the stop-gradient collapse; with it they don't (Chen and He, 2021, figure 2).

    The small forms on Fashion-MNIST, 100 steps of 256 images. The deviation is that of embeddings of unit norm times
    the root of their dimension: 1 where they point everywhere alike, 0 where all are the same. It holds if, at the end
    of every run, it is above 0.5 with the stop-gradient and below 0.1 without; each of the two conditions is judged for
    each of the two methods.
    """
    steps = {"steps": 20 if budget.test else 100, "log_every": 5, "knn_every": -1}
    curves: dict = {"deviation of the embedding": {}, "accuracy of the online probe": {}}
    figures = {}
    for method in ("simsiam", "byol"):
        for stop in (True, False):
            name = f"{method}, {'with' if stop else 'without'} stop-gradient"
            fields = {**steps, "method_args.stop_gradient": stop}
            runs = [pretrain(budget, budget.config(method), s, fields) for s in budget.seeds]
            deviation, accuracy = logged(runs, "embedding_std"), logged(runs, "probe_accuracy")
            curves["deviation of the embedding"][name] = deviation
            curves["accuracy of the online probe"][name] = accuracy
            figures[name] = {"deviation": last(deviation), "probe accuracy": last(accuracy)}
    return Finding(verdict=needs_stop_gradient(figures), figures=figures, curves=curves)


def needs_stop_gradient(figures: Figures) -> str:
    """The verdict of `stop_gradient`."""
    holds, basis = [], []
    for method, title in (("simsiam", "SimSiam"), ("byol", "BYOL")):
        kept, lost = (figures[f"{method}, {word} stop-gradient"]["deviation"] for word in ("with", "without"))
        holds += [min(kept) > 0.5, max(lost) < 0.1]
        basis.append(f"{title} {spread(kept)} with it and {spread(lost)} without")
    return verdict(holds, f"deviation of the embedding: {', '.join(basis)}")


def centering(budget: Budget) -> Finding:
    """DINO without centring collapses to one dimension, without sharpening to the uniform one (Caron et al., 2021).

    The small form on Fashion-MNIST, 120 steps of 256 images; without sharpening the teacher is as soft as the student.
    It holds if, at the end of every run, the entropy of the targets over its maximum (the logarithm of the number of
    prototypes) is below 0.05 without centring, above 0.95 without sharpening, and in between with both; and if the
    divergence (KL) of the predictions from the targets is below 0.1 without either of them, above it with both. Targets
    of low entropy are no collapse by themselves: it is one when all images have the same, and nothing is left to learn.
    The condition on the divergence was added when the figures were known.
    """
    # Without sharpening the teacher is as soft as the student, whose temperature is 0.1.
    settings = {
        "both": {},
        "no centring": {"method_args.centering": False},
        "no sharpening": {"method_args.teacher_temperature": 0.1},
    }
    steps = {"steps": 20 if budget.test else 120, "log_every": 5, "knn_every": -1}
    curves: dict = {"entropy of the targets": {}, "KL divergence": {}, "accuracy of the online probe": {}}
    figures = {}
    for name, fields in settings.items():
        runs = [pretrain(budget, budget.config("dino"), s, {**steps, **fields}) for s in budget.seeds]
        found = {n: logged(runs, n) for n in ("target_entropy", "target_kl", "probe_accuracy")}
        for panel, curve in zip(curves, found.values(), strict=True):
            curves[panel][name] = curve
        figures[name] = {n.replace("_", " "): last(curve) for n, curve in found.items()}
    return Finding(verdict=needs_both(figures, prototypes=64 if budget.test else 512), figures=figures, curves=curves)


def needs_both(figures: Figures, *, prototypes: int) -> str:
    """The verdict of `centering`."""
    entropy = {name: np.asarray(found["target entropy"]) / np.log(prototypes) for name, found in figures.items()}
    left = {name: np.asarray(found["target kl"]) for name, found in figures.items()}
    holds = [
        entropy["no centring"] < 0.05,
        left["no centring"] < 0.1,
        entropy["no sharpening"] > 0.95,
        left["no sharpening"] < 0.1,
        (entropy["both"] > 0.05) & (entropy["both"] < 0.95) & (left["both"] > 0.1),
    ]
    shares = ", ".join(f"{name} {spread(values.tolist())}" for name, values in entropy.items())
    each = "; ".join(f"{name} {', '.join(f'{kl:.2f}' for kl in values)}" for name, values in left.items())
    basis = f"entropy of the targets over its maximum: {shares}; divergence in each seed: {each}"
    return verdict([bool(seeds.all()) for seeds in holds], basis)
