"""A gate on answers: give an answer, answer again with something done about the noise, or abstain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from seen_jax.blind import Observer, blind_model, check_blind, observe, scores_of
from seen_jax.errors import ConfigError
from seen_jax.models.batching import Wave, group_requests
from seen_jax.models.edits import Edits
from seen_jax.models.generate import Decoding
from seen_jax.models.model import Model
from seen_jax.models.processor import Request
from seen_jax.progress import Progress
from seen_jax.subspace.blind import BlindModel

Action = Literal["answer", "mitigate", "abstain"]


@dataclass(frozen=True, eq=False)
class When:
    """When to answer, for `generate(..., when=...)`. An answer whose blind risk is at most `threshold` is given. Above
    it the model answers again with `hear` and `edits`, where there are any, unless the risk is above `abstain`; without
    them, and above that, it abstains.

    threshold: in [0, 1], for example of `subspace.conformal_threshold`; -inf and inf are allowed.
    abstain: the largest risk of an answer that is worth another try.
    hear: what the model hears in place of a wave, such as a denoiser. edits: as `generate` takes them.
    blind: of `fit_blind`; by default the one that ships.
    Raises ConfigError for thresholds that are not numbers or in the wrong order.

    >>> when = seen_jax.When(threshold=0.3, hear=audio.denoiser("wiener"))
    >>> when.action(0.2), when.action(0.7), seen_jax.When(0.3).action(0.7)
    ('answer', 'mitigate', 'abstain')
    """

    threshold: float
    abstain: float = 1.0
    hear: Callable[[Wave], Wave] | None = None
    edits: Edits | None = None
    blind: BlindModel | None = None

    def __post_init__(self) -> None:
        if not (self.threshold == self.threshold and self.abstain == self.abstain):
            raise ConfigError("thresholds of a gate must be numbers, not NaN.")
        if self.mitigates and self.abstain < self.threshold:
            raise ConfigError(f"a gate abstains above {self.abstain} but answers up to {self.threshold}: swap them.")

    @property
    def mitigates(self) -> bool:
        """Whether there is something to do about noise."""
        return self.hear is not None or bool(self.edits)

    def action(self, risk: float) -> Action:
        """What to do about an answer of some risk."""
        if risk <= self.threshold:
            return "answer"
        return "mitigate" if self.mitigates and risk <= self.abstain else "abstain"

    def mitigated(self, request: Request) -> Request:
        """The request as the model hears it at its second try."""
        hear = self.hear or (lambda wave: wave)
        return request.with_audio([hear(wave) for wave in request.audio])


def risks_of_answers(
    model: Model,
    requests: Sequence[Request],
    answers: Sequence[tuple[int, ...]],
    when: When,
    edits: Edits,
    decoding: Decoding,
    run: tuple[int, Progress],
) -> list[float]:
    """The blind risk of given answers, which were made under some edits. run: the batch size, and a callback."""
    blind = blind_model(model) if when.blind is None else when.blind
    check_blind(model, blind)
    observer = Observer(model, blind.layers, blind.clean, decoding, edits)
    evidence = observe(observer, requests, group_requests(model, requests, run[0]), run[1], answers)
    return [score.risk for score in scores_of(blind, evidence) if score.risk is not None]
