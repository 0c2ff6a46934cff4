from hypothesis import given
from hypothesis import strategies as st

from seen_jax.studies.partial import span


@given(st.integers(1, 10**6), st.floats(0, 1), st.integers(0, 1000))
def test_span_lies_in_the_clip(samples, part, seed):
    start, stop = span(samples, part, [seed])
    assert 0 <= start < stop <= samples
    assert stop - start == max(1, round(part * samples))
