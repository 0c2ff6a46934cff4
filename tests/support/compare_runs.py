"""The same experiment on models of several training runs: GSR and accuracy, and what one group of runs gains over
another on the same items, noises and SNRs up to 10 dB: the mean of its runs, with bootstrap intervals over the items.

python tests/support/compare_runs.py runs/tune aug see1 con1 both1     # of the folders aug-0/test, aug-1/test, ...
"""

import sys
from pathlib import Path

import pandas as pd

from seen_jax.evaluate.metrics import answer, mean_interval, plain_words
from seen_jax.evaluate.tables import BENDS

LEVELS = (0.95, 1 - 0.05 / 3)  # of one comparison, and of three


def kept_and_right(folder: Path) -> pd.DataFrame:
    """For every item, noise and SNR up to 10 dB: whether the answer is the clean one, and whether it is right."""
    rows = pd.read_csv(folder / "tables" / "answers.csv", keep_default_na=False)
    rows["answer"] = [answer(output, letter or None) for output, letter in zip(rows.output, rows.letter, strict=True)]
    rows["target"] = rows.right.where(rows.right != "", rows.reference.map(plain_words))
    clean = rows[rows.snr_db == ""].set_index(["item", "noise"]).answer
    noisy = rows[rows.snr_db != ""].astype({"snr_db": float}).query(f"snr_db <= {BENDS}")
    pairs = pd.MultiIndex.from_frame(noisy[["item", "noise"]])
    index = noisy[["item", "noise", "snr_db"]]
    kept, right = noisy.answer.to_numpy() == clean[pairs].to_numpy(), noisy.answer == noisy.target
    return index.assign(gsr=kept, accuracy=right).set_index([*index])


def runs(folder: Path, group: str) -> dict[str, pd.DataFrame]:
    """{number of the run: its table} of the runs of a group that have been evaluated."""
    tables = folder.glob(f"{group}-*/test/tables/answers.csv")
    return {path.parts[-4].rsplit("-", 1)[1]: kept_and_right(path.parents[1]) for path in sorted(tables)}


def interval(gains: pd.Series, level: float) -> str:
    """Of the mean over items, in points."""
    tails = (1 - level) / 2, (1 + level) / 2
    _, low, high = mean_interval(gains.to_numpy(), gains.index.get_level_values("item"), tails=tails)
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def main(folder: str, base: str, *groups: str) -> None:
    tables = {group: runs(Path(folder), group) for group in (base, *groups)}
    for group, of_group in tables.items():
        for number, table in of_group.items():
            gsr, accuracy = (f"{name} {100 * table[name].mean():.1f}" for name in ("gsr", "accuracy"))
            each = [f"{noise} {100 * mean:.1f}" for noise, mean in table.gsr.groupby("noise").mean().items()]
            print(f"{group}-{number}: {gsr}, {accuracy}; gsr of {', '.join(each)}")
    for group in groups:
        numbers = sorted(tables[group].keys() & tables[base].keys())
        for value in ("gsr", "accuracy") if numbers else ():
            gains = [tables[group][n][value].astype(float) - tables[base][n][value] for n in numbers]
            mean = pd.concat(gains, axis=1).mean(axis=1)
            spread = ", ".join(f"{100 * gain.mean():+.1f}" for gain in gains)
            ends = "; ".join(f"{100 * level:.1f} %: {interval(mean, level)}" for level in LEVELS)
            print(f"{group} - {base}, {value}: {100 * mean.mean():+.1f} ({ends}); runs {', '.join(numbers)}: {spread}")


if __name__ == "__main__":
    main(*sys.argv[1:])
