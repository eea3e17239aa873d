"""The order and the arithmetic of timing, with a clock that the functions move themselves."""

import pytest

from moejax.evals import timing


def test_functions_take_turns(monkeypatch):
    clock = {"now": 0.0}
    calls = []

    def takes(name, *seconds):
        def run():
            calls.append(name)
            clock["now"] += seconds[min(calls.count(name), len(seconds)) - 1]

        return run

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock["now"])
    functions = {"a": takes("a", 9, 1, 2, 4), "b": takes("b", 9, 3, 5, 20)}
    seconds = timing.interleaved(functions, rounds=3, warm_up=1)
    # One warm-up call each, then the rounds a b, b a, a b.
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert seconds == {"a": [1, 2, 4], "b": [3, 5, 20]}
    assert timing.medians(seconds) == {"a": 2000, "b": 5000}
    # Ratios round by round: 3 / 1, 5 / 2, 20 / 4, of which the median is 3.
    assert timing.ratios(seconds, "a") == {"a": 1, "b": 3}


def test_environment_names_what_times_depend_on():
    found = timing.environment()
    assert {"device", "cpus", "versions", "date"} <= set(found)
    assert {"python", "jax", "jaxlib", "moejax"} <= set(found["versions"])
    assert found["date"].endswith("+00:00")
    with pytest.raises(KeyError):
        timing.ratios({"a": [1.0]}, "b")
