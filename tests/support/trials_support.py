"""Made-up trials."""

from seen_jax.evaluate.tables import Trial


def trial(item="0", snr=None, mitigation="none", output="a", **other):
    """A trial of a multiple choice if `right` is given, of a transcription otherwise."""
    fields = {"dataset": "d", "task": "music" if "right" in other else "transcription", "noise": "rain"}
    measured = {"see": 0.1, "see_after": 0.05, "layers": (0.1, 0.3), "layers_after": (0.0, 0.1), "energy": (1.0, 3.0)}
    return Trial(
        **{**fields, **measured, "item": item, "snr_db": snr, "mitigation": mitigation, "output": output, **other}
    )
