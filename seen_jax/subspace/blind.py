"""The arithmetic of a blind score: distances from clean activations, the agreement of two encodings, a calibration that
only ever rises, and a threshold with a guarantee.

Nothing here knows a model or a noise. Axes: L layers, N clips, T frames, D width, R rank, J statistics, K knots."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from seen_jax.errors import BasisError, ConfigError
from seen_jax.subspace.identity import MODEL_KEYS, Identity
from seen_jax.subspace.store import read_folder, write_folder
from seen_jax.subspace.trees import register

KIND = "blind model"
KNOTS = 9  # of each statistic
EDGES = 0.01, 0.99  # quantiles of a statistic between which its knots lie
PENALTY = 1.0  # of the squared weights of a calibration, beside the log loss summed over its clips
SMALLEST = 1e-6  # of a variance of clean activations, as a share of the largest
TINY = float(np.finfo(np.float32).tiny)


class CleanModel(NamedTuple):
    """A Gaussian of clean activations at every layer: variances along a few directions, and one for all others
    (probabilistic principal components, Tipping and Bishop 1999). float32."""

    mean: Float[np.ndarray, "layers width"]
    directions: Float[np.ndarray, "layers width rank"]
    scale: Float[np.ndarray, "layers rank"]  # standard deviations along the directions
    rest: Float[np.ndarray, " layers"]  # standard deviation along any other direction

    def distances(self, a: Float[np.ndarray, "layers frames width"]) -> dict[str, Float[np.ndarray, "layers frames"]]:
        """How far activations lie from clean ones: "mahalanobis", inside the directions in standard deviations;
        "residual", the length outside of them (ViM, Wang et al. 2022); "unlikeliness", minus the log-likelihood."""
        width, rank = self.directions.shape[1:]
        x = np.asarray(a, np.float64) - self.mean[:, None]
        inside = x @ self.directions
        outside = np.maximum(np.square(x).sum(-1) - np.square(inside).sum(-1), 0.0)
        squared = np.square(inside / self.scale[:, None]).sum(-1)
        variance = np.square(self.rest.astype(np.float64))[:, None]
        volume = 2 * np.log(self.scale).sum(-1)[:, None] + (width - rank) * np.log(variance) + width * np.log(2 * np.pi)
        unlikeliness = 0.5 * (squared + outside / variance + volume)
        return {"mahalanobis": np.sqrt(squared), "residual": np.sqrt(outside), "unlikeliness": unlikeliness}


def fit_clean(a: Float[np.ndarray, "layers frames width"], rank: int) -> CleanModel:
    """The Gaussian of clean activations, with `rank` directions of its own. Raises BasisError for fewer than two
    frames, for a rank out of 1..D-1, and for activations that are not finite."""
    a = np.asarray(a, np.float64)
    _, frames, width = a.shape
    if frames < 2 or not 1 <= rank < width:
        raise BasisError(f"a clean model of rank {rank} needs a width above it and 2 frames, not {list(a.shape)}")
    if not np.isfinite(a).all():
        raise BasisError("clean activations hold NaN or infinite values: check the clips and the model's dtype")
    mean = a.mean(axis=1)
    x = a - mean[:, None]
    variances, vectors = np.linalg.eigh(np.swapaxes(x, 1, 2) @ x / frames)
    variances = np.maximum(variances[:, ::-1], np.maximum(SMALLEST * variances[:, -1:], TINY))
    rest = np.sqrt(variances[:, rank:].mean(axis=1))
    parts = mean, vectors[:, :, ::-1][:, :, :rank], np.sqrt(variances[:, :rank]), rest
    return CleanModel(*(part.astype(np.float32) for part in parts))


def disagreement(
    a: Float[np.ndarray, "layers frames width"], b: Float[np.ndarray, "layers frames width"]
) -> dict[str, Float[np.ndarray, " layers"]]:
    """How much two encodings of the same frames differ, at every layer. "turn": 1 minus the mean cosine of frames, each
    taken from the mean of its clip; "change": the length of the difference, as a share of the spread of a."""
    x, y = (np.asarray(z, np.float64) for z in (a, b))
    from_mean = [z - z.mean(axis=1, keepdims=True) for z in (x, y)]
    norms = [np.linalg.norm(z, axis=-1) for z in from_mean]
    cosines = (from_mean[0] * from_mean[1]).sum(-1) / np.maximum(norms[0] * norms[1], TINY)
    spread = np.sqrt(np.square(norms[0]).mean(axis=1))
    change = np.sqrt(np.square(x - y).sum(-1).mean(axis=1)) / np.maximum(spread, TINY)
    return {"turn": 1 - cosines.mean(axis=1), "change": change}


class Monotone(NamedTuple):
    """A risk in [0, 1] that never falls when a statistic rises: the logistic function of a sum of one rising,
    piecewise linear function per statistic, which is constant outside of its knots. float32."""

    knots: Float[np.ndarray, "statistics knots"]
    weights: Float[np.ndarray, "statistics steps"]  # how much each function rises between two knots, never below 0
    bias: Float[np.ndarray, "1"]

    def __call__(self, x: Float[np.ndarray, "clips statistics"]) -> Float[np.ndarray, " clips"]:
        """The risk of every clip."""
        steps = _steps(np.asarray(x, np.float64), self.knots.astype(np.float64))
        return _logistic(steps @ self.weights.reshape(-1).astype(np.float64) + self.bias)


def _logistic(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))


def _steps(x: Float[np.ndarray, "clips statistics"], knots: Float[np.ndarray, "statistics knots"]) -> np.ndarray:
    """[N, J (K - 1)]: how far each statistic has passed through each step between two knots, from 0 to 1."""
    low, width = knots[:, :-1], np.maximum(np.diff(knots), TINY)
    return np.clip((x[:, :, None] - low) / width, 0, 1).reshape(len(x), -1)


def fit_monotone(
    x: Float[np.ndarray, "clips statistics"], changed: Bool[np.ndarray, " clips"], penalty: float = PENALTY
) -> Monotone:
    """The rising logistic model of least log loss + penalty / 2 ||weights||^2. Raises BasisError unless there are clips
    of both kinds, and statistics that are finite."""
    from scipy.optimize import minimize

    x, y = np.asarray(x, np.float64), np.asarray(changed, np.float64)
    if not np.isfinite(x).all():
        raise BasisError("statistics of a blind score are not finite (NaN or infinite): check the model's dtype")
    if len(np.unique(y)) < 2:
        kind = "all" if y.any() else "none"
        raise BasisError(
            f"noise changed {kind} of {len(y)} answers: a risk needs answers of both kinds; add clips or SNRs"
        )
    knots = np.quantile(x, np.linspace(*EDGES, KNOTS), axis=0).T.astype(np.float32).astype(np.float64)
    steps = _steps(x, knots)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        bias, weights = parameters[0], parameters[1:]
        logits = steps @ weights + bias
        error = _logistic(logits) - y
        value = (np.logaddexp(0, logits) - y * logits).sum() + 0.5 * penalty * np.square(weights).sum()
        return value, np.concatenate([[error.sum()], steps.T @ error + penalty * weights])

    bounds = [(None, None)] + [(0, None)] * steps.shape[1]
    best = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds).x
    parts = knots, best[1:].reshape(x.shape[1], -1), best[:1]
    return Monotone(*(np.asarray(part, np.float32) for part in parts))


def conformal_threshold(
    risk: Sequence[float] | Float[np.ndarray, " _"], changed: Sequence[bool] | Bool[np.ndarray, " _"], alpha: float
) -> float:
    """The largest threshold for which answering clips of a risk up to it gives wrong answers to at most a share `alpha`
    of all clips, on average over calibration sets (conformal risk control, Angelopoulos et al. 2022).

    The wrong answers are those of clips whose answer noise changed and whose risk is within the threshold. Of n
    calibration clips at most alpha (n + 1) - 1 may be of that kind. The guarantee holds for clips drawn as those of the
    calibration are. -inf: not even one answer can be given with so few clips; inf: all can.
    risk, changed: [N] of calibration clips, which took no part in fitting the score. alpha: in (0, 1).
    Raises ConfigError for another alpha and for lists of different lengths.
    >>> subspace.conformal_threshold(np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, True, False, True]), alpha=0.4)
    0.3...
    """
    risk, changed = np.asarray(risk, np.float64), np.asarray(changed, bool)
    if not 0 < alpha < 1 or risk.shape != changed.shape or risk.ndim != 1:
        what = f"alpha {alpha} and {risk.shape}, {changed.shape}"
        raise ConfigError(f"a conformal threshold takes an alpha in (0, 1) and as many risks as answers, not {what}")
    allowed = int(np.floor(alpha * (len(risk) + 1) - 1 + 1e-9))
    if allowed < 0:
        return float("-inf")
    wrong = np.sort(risk[changed])
    if len(wrong) <= allowed:
        return float("inf")
    return float(np.nextafter(wrong[allowed], -np.inf))


@dataclass(frozen=True, eq=False)
class BlindModel:
    """What a blind score of one model needs: no noise clips, and no clean reference of a clip. A pytree of its arrays.

    layers: of `encoder.resid` whose frames count, ascending. clean: Gaussians of clean frames at these layers.
    encoder, answer: calibrated risks of the statistics of the encoder alone, and of those of an answer.
    card: whose model it is, and what it was fitted to, JSON values.
    Raises BasisError: parts that do not fit each other, NaN, a weight below 0.
    >>> seen_jax.blind_model(model)
    BlindModel('seen-tiny', layers=(0, 1, 2, 3), rank=..., statistics=...+...)
    """

    layers: tuple[int, ...]
    clean: CleanModel
    encoder: Monotone
    answer: Monotone
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layers, width, rank = self.clean.directions.shape
        shapes = [(layers, width), (layers, width, rank), (layers, rank), (layers,)]
        for risk in (self.encoder, self.answer):
            count, knots = risk.knots.shape
            shapes += [(count, knots), (count, knots - 1), (1,)]
        arrays = [*self.clean, *self.encoder, *self.answer]
        if len(self.layers) != layers or [np.shape(x) for x in arrays] != shapes:
            raise BasisError(f"parts of a blind model do not fit each other: {[list(np.shape(x)) for x in arrays]}")
        if not all(np.isfinite(x).all() for x in arrays) or min(self.clean.scale.min(), self.clean.rest.min()) <= 0:
            raise BasisError("a blind model holds NaN or infinite values, or a scale that is not above 0")
        if min(self.encoder.weights.min(), self.answer.weights.min()) < 0:
            raise BasisError("a blind model holds weights below 0: its risk would fall as a statistic rises")

    def __repr__(self) -> str:
        name, rank = self.card.get("model", ""), self.clean.directions.shape[2]
        counts = "+".join(str(len(risk.knots)) for risk in (self.encoder, self.answer))
        return f"BlindModel({name!r}, layers={self.layers}, rank={rank}, statistics={counts})"

    def check(self, model: Identity, part: str = "model") -> None:
        """Raise BasisError unless it was fitted to the weights of this "model", or of its "encoder" alone. The same
        weights in another precision pass."""
        mine = Identity.of_card(self.card if part == "model" else self.card.get("encoder") or {})
        if mine.compare(model) == "other model":
            name = self.card.get("model") or "another model"
            raise BasisError(
                f"this blind model was fitted to {name}, not to {model.model}: fit one with `seen-jax blind`"
            )

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write blind.safetensors and card.json, all or nothing. Raises BasisError as `write_folder`."""
        tensors = {f"{part}.{name}": x for part in PARTS for name, x in getattr(self, part)._asdict().items()}
        return write_folder(folder, KIND, tensors, {**self.card, "layers": list(self.layers)}, overwrite)

    @classmethod
    def load(cls, folder: str | Path) -> "BlindModel":
        """Read a saved blind model. Raises BasisError where it is missing, damaged or inconsistent."""
        tensors, card = read_folder(folder, KIND, ("layers", *MODEL_KEYS[:2]))
        try:
            parts = {
                part: kind(**{name: tensors.pop(f"{part}.{name}") for name in kind._fields})
                for part, kind in PARTS.items()
            }
            layers = tuple(int(layer) for layer in card["layers"])
        except (KeyError, TypeError, ValueError) as error:
            raise BasisError(f"the blind model in {folder} is damaged ({error}): fit it again") from None
        return cls(layers, parts["clean"], parts["encoder"], parts["answer"], card)


PARTS: dict[str, Any] = {"clean": CleanModel, "encoder": Monotone, "answer": Monotone}
register(BlindModel, tuple(PARTS), ("layers", "card"))
