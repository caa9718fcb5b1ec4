"""Bad input over the whole public surface: every call with one bad argument gives ValueError or TypeError that names the argument.

The calls and what is bad for each of their arguments are in `surface.py`.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections import Counter

import pytest
import surface
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from surface import SORTS, TABLE

import cl_func as cl

quick = settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
TRIED: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def _count():
    yield
    names = {name.split(" ")[0] for name in TRIED}
    print(f"\nbad input: {TRIED.total():,} bad values for {len(TRIED)} arguments of {len(names)} public callables", flush=True)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fault(call, name, value):
    """What is wrong with the answer to a bad value, in words; None if it is refused as it should be."""
    TRIED[f"{call.name} {name}"] += 1
    said = call.says.get(name, r"\bslot\b|path '" if name == "slot" else rf"\b{name}\b")
    try:
        call(**{name: value})
    except (TypeError, ValueError) as error:
        return None if re.search(said, str(error)) else f"the message does not name it: {type(error).__name__}: {str(error)[:150]}"
    except OSError as error:  # the answer to a path where nothing can be read or written; it names that path
        return None if name in ("path", "folder") and str(value) in str(error) else f"raw {type(error).__name__}: {error}"
    except Exception as error:
        return f"raw {type(error).__name__}: {str(error)[:150]}"
    return "accepted"


def short(value):
    return re.sub(r"\s+", " ", f"{type(value).__name__} {value!r}")[:90]


CASES = [pytest.param(call, id=f"{call.name}-{i}") for i, call in enumerate(TABLE)]


@pytest.mark.parametrize("call", CASES)
def test_the_call_works(call):
    call()


@pytest.mark.parametrize("call", CASES)
def test_bad_values_are_refused(call):
    faults = []
    for name, kind in call.kinds.items():
        bad = {sort: value for sort, value in SORTS.items() if sort not in kind.fine}
        faults += [f"{name}={short(v)}: {what}" for v in (*bad.values(), *kind.bad) if (what := fault(call, name, v))]
    assert not faults, f"{call.name}:\n  " + "\n  ".join(faults)


DRAWN = [
    pytest.param(call, id=f"{call.name}-{i}")
    for i, call in enumerate(TABLE)
    if any(k.drawn is not None for k in call.kinds.values())
]


@pytest.mark.parametrize("call", DRAWN)
@quick
@given(data=st.data())
def test_drawn_values_are_refused(call, data):
    for name, kind in call.kinds.items():
        if kind.drawn is not None:
            value = data.draw(kind.drawn, label=name)
            what = fault(call, name, value)
            assert what is None, f"{call.name}: {name}={short(value)}: {what}"


def test_the_table_is_complete():
    """A public callable without a call, or an argument that no call gives, has escaped."""
    public = surface.public()
    names = {call.name for call in TABLE}
    states = {name for name, value in public.items() if getattr(value, "replace", None) is cl.tree.replace}
    assert set(public) - names - states - surface.RECORDS == set()
    assert names - set(public) == set()
    given = {name: {argument for call in TABLE if call.name == name for argument in call.valid} for name in names}
    declared = {name: set(inspect.signature(public[name]).parameters) - {"hyperparameters", "fields"} for name in names}
    assert {name: declared[name] - given[name] for name in names if declared[name] - given[name]} == {}
