"""The metrics against hand-worked matrices, their relations on any matrix, and the confidence interval against scipy."""

import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import pytest
import scipy.stats
import torch

from cl_func import metrics, random
from cl_func.metrics import intervals

# Worked by hand, in percent:
#        j=0  1   2     A_i                      F[i, :]
# i=0     80  10  20    80
#   1     60  90  30    75                       20
#   2     70  50  40    53.33                    10  40
R = torch.tensor([[0.8, 0.1, 0.2], [0.6, 0.9, 0.3], [0.7, 0.5, 0.4]], dtype=torch.float64)
#   i=0   50  20   0    50
#     1   70  60  10    65
#     2   90  30  80    66.67                   -20  30
S = torch.tensor([[0.5, 0.2, 0.0], [0.7, 0.6, 0.1], [0.9, 0.3, 0.8]], dtype=torch.float64)
BOTH = torch.stack([R, S])
BASELINE = torch.tensor([0.3, 0.05, 0.1], dtype=torch.float64)


def close(a, b):
    torch.testing.assert_close(a, torch.as_tensor(b, dtype=a.dtype), rtol=0, atol=1e-12)


def test_average_accuracy():
    close(metrics.average_accuracy(R), [0.8, 0.75, 1.6 / 3])
    close(metrics.average_accuracy(BOTH), [[0.8, 0.75, 1.6 / 3], [0.5, 0.65, 2.0 / 3]])


def test_average_anytime_accuracy():
    close(metrics.average_anytime_accuracy(BOTH), [(0.8 + 0.75 + 1.6 / 3) / 3, (0.5 + 0.65 + 2 / 3) / 3])


def test_forgetting_matrix():
    close(metrics.forgetting_matrix(R), [[0, 0, 0], [0.2, 0, 0], [0.1, 0.4, 0]])
    close(metrics.forgetting_matrix(BOTH)[1], [[0, 0, 0], [-0.2, 0, 0], [-0.2, 0.3, 0]])


def test_forgetting_takes_the_best_time_before_not_the_diagonal():
    matrix = torch.tensor([[0.5, 0.0, 0.0], [0.9, 0.5, 0.0], [0.4, 0.5, 0.5]])
    assert metrics.forgetting_matrix(matrix)[2, 0].item() == pytest.approx(0.5)
    assert metrics.backward_transfer(matrix).item() == pytest.approx(-0.05)


def test_forgetting():
    close(metrics.forgetting_per_experience(BOTH), [[0.1, 0.4], [-0.2, 0.3]])
    close(metrics.forgetting(R), 0.25)
    close(metrics.forgetting(BOTH), [0.25, 0.05])


def test_backward_transfer():
    close(metrics.backward_transfer(R), (0.7 - 0.8 + 0.5 - 0.9) / 2)
    close(metrics.backward_transfer(BOTH), [-0.25, 0.05])


def test_forward_transfer():
    close(metrics.forward_transfer(R, BASELINE), (0.1 - 0.05 + 0.3 - 0.1) / 2)
    close(metrics.forward_transfer(BOTH, BASELINE), [0.125, (0.2 - 0.05 + 0.1 - 0.1) / 2])
    own = torch.stack([BASELINE, torch.zeros(3, dtype=torch.float64)])
    close(metrics.forward_transfer(BOTH, own), [0.125, 0.15])


def test_learning_accuracy():
    close(metrics.learning_accuracy(BOTH), [0.7, 1.9 / 3])


def test_worst_case_accuracy():
    close(metrics.worst_case_accuracy(R), (min(R[1, 0], R[2, 0]) + R[2, 1] + R[2, 2]) / 3)
    close(metrics.worst_case_accuracy(1 - R, higher_is_better=False), 1 - metrics.worst_case_accuracy(R))


METRICS = {
    "average_accuracy": metrics.average_accuracy,
    "average_anytime_accuracy": metrics.average_anytime_accuracy,
    "forgetting_matrix": metrics.forgetting_matrix,
    "forgetting_per_experience": metrics.forgetting_per_experience,
    "forgetting": metrics.forgetting,
    "backward_transfer": metrics.backward_transfer,
    "forward_transfer": lambda R, seen=None: metrics.forward_transfer(R, torch.full(R.shape[-1:], 0.1, dtype=R.dtype), seen),
    "learning_accuracy": metrics.learning_accuracy,
    "worst_case_accuracy": metrics.worst_case_accuracy,
}


@pytest.mark.parametrize("name", METRICS)
def test_any_leading_axes(name):
    metric = METRICS[name]
    many = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    together = metric(many)
    assert together.dtype == many.dtype
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(together[i, j], metric(many[i, j]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_inputs_are_left_as_they_are(name):
    before = BOTH.clone()
    METRICS[name](BOTH)
    assert torch.equal(BOTH, before)


# ---------------------------------------------------------------- timelines of another length

# Four minibatches, two of each experience; by hand.
ONLINE = torch.tensor([[0.5, 0.1], [0.8, 0.3], [0.6, 0.6], [0.7, 0.9]], dtype=torch.float64)
SEEN = [1, 1, 2, 2]


def test_online_timeline():
    close(metrics.average_accuracy(ONLINE, SEEN), [0.5, 0.8, 0.6, 0.8])
    close(metrics.average_anytime_accuracy(ONLINE, SEEN), 2.7 / 4)
    close(metrics.forgetting_matrix(ONLINE, SEEN), [[0, 0], [0, 0], [0.2, 0], [0.1, 0]])
    close(metrics.forgetting(ONLINE, SEEN), 0.1)
    close(metrics.backward_transfer(ONLINE, SEEN), 0.7 - 0.8)  # learned at time 1, the last of its own
    close(metrics.forward_transfer(ONLINE, torch.tensor([0.0, 0.05], dtype=torch.float64), SEEN), 0.3 - 0.05)
    close(metrics.learning_accuracy(ONLINE, SEEN), (0.8 + 0.9) / 2)
    close(metrics.worst_case_accuracy(ONLINE, SEEN), (0.6 + 0.9) / 2)  # of the first, the lowest since the second began


def test_times_that_skip_experiences():
    """A probe after every second of four experiences sees them in pairs."""
    pairs = torch.tensor([[0.8, 0.9, 0.2, 0.1], [0.6, 0.4, 0.7, 1.0]], dtype=torch.float64)
    close(metrics.average_accuracy(pairs, [2, 4]), [0.85, 2.7 / 4])
    close(metrics.learning_accuracy(pairs, [2, 4]), (0.8 + 0.9 + 0.7 + 1.0) / 4)
    close(metrics.worst_case_accuracy(pairs, [2, 4]), (0.6 + 0.4 + 0.7 + 1.0) / 4)
    close(metrics.forward_transfer(pairs, torch.full((4,), 0.1, dtype=torch.float64), [2, 4]), (0.1 + 0.0) / 2)
    close(metrics.forgetting_matrix(pairs, [2, 4]), [[0, 0, 0, 0], [0.2, 0.5, -0.5, 0]])


def test_a_run_that_was_cut_short_counts_what_it_has_seen():
    cut = BOTH[:, :2]
    close(metrics.average_accuracy(cut, [1, 2]), [[0.8, 0.75], [0.5, 0.65]])
    close(metrics.forgetting(cut, [1, 2]), [0.2, -0.2])
    close(metrics.backward_transfer(cut, [1, 2]), [-0.2, 0.2])
    close(metrics.learning_accuracy(cut, [1, 2]), [0.85, 0.55])
    close(metrics.forward_transfer(cut, BASELINE, [1, 2]), [0.05, 0.15])


@pytest.mark.parametrize("name", METRICS)
def test_seen_as_a_tensor_and_the_default(name):
    assert torch.equal(METRICS[name](R), METRICS[name](R, torch.tensor([1, 2, 3])))


# ---------------------------------------------------------------- properties

QUICK = hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
MATRICES = (
    st.integers(2, 6)
    .flatmap(lambda n: hnp.arrays("float64", st.sampled_from([(n, n), (3, n, n)]), elements=st.floats(0, 1)))
    .map(torch.from_numpy)
)


@QUICK
@hypothesis.given(MATRICES)
def test_bounds(matrix):
    for name in ("average_accuracy", "average_anytime_accuracy", "learning_accuracy", "worst_case_accuracy"):
        value = METRICS[name](matrix)
        assert value.min() >= 0
        assert value.max() <= 1 + 1e-12
    for name in ("forgetting_matrix", "forgetting", "backward_transfer", "forward_transfer"):
        assert METRICS[name](matrix).abs().max() <= 1 + 1e-12


@QUICK
@hypothesis.given(MATRICES)
def test_backward_transfer_and_forgetting(matrix):
    # max_{l < T-1} R[l, j] is at least R[j, j] for j < T-1 ...
    assert (metrics.forgetting(matrix) >= -metrics.backward_transfer(matrix) - 1e-12).all()
    # ... and equal to it where the diagonal holds the best of each column so far: then one is the other's negative.
    best = matrix[..., :-1, :].amax(-2)
    diagonal = torch.eye(matrix.shape[-1], dtype=torch.bool)
    peaked = torch.where(diagonal, torch.cat([best[..., :-1], matrix[..., -1, -1:]], -1)[..., None, :], matrix)
    torch.testing.assert_close(metrics.forgetting(peaked), -metrics.backward_transfer(peaked), rtol=0, atol=1e-12)


@QUICK
@hypothesis.given(MATRICES)
def test_definitions_by_loops(matrix):
    one = matrix if matrix.ndim == 2 else matrix[0]
    n = len(one)
    rows = one.tolist()
    close(metrics.average_accuracy(one), [sum(rows[i][: i + 1]) / (i + 1) for i in range(n)])
    forgotten = [[max(rows[k][j] for k in range(i)) - rows[i][j] if j < i else 0.0 for j in range(n)] for i in range(n)]
    close(metrics.forgetting_matrix(one), forgotten)
    close(metrics.forgetting(one), sum(forgotten[-1][:-1]) / (n - 1))
    close(metrics.backward_transfer(one), sum(rows[-1][j] - rows[j][j] for j in range(n - 1)) / (n - 1))
    close(metrics.forward_transfer(one, one.new_full((n,), 0.2)), sum(rows[j - 1][j] - 0.2 for j in range(1, n)) / (n - 1))
    close(metrics.learning_accuracy(one), sum(rows[j][j] for j in range(n)) / n)
    worst = [min(rows[i][j] for i in range(j + 1, n)) for j in range(n - 1)]
    close(metrics.worst_case_accuracy(one), sum([*worst, rows[-1][-1]]) / n)


@QUICK
@hypothesis.given(MATRICES)
def test_a_model_that_never_changes_neither_forgets_nor_transfers(matrix):
    constant = matrix[..., :1, :].expand(matrix.shape)
    assert (metrics.forgetting_matrix(constant) == 0).all()
    assert (metrics.backward_transfer(constant) == 0).all()
    assert (metrics.forward_transfer(constant, constant[..., 0, :]) == 0).all()


# ---------------------------------------------------------------- confidence intervals


def test_mean_ci_by_hand():
    mean, half = metrics.mean_ci(torch.tensor([0.70, 0.72, 0.74], dtype=torch.float64))
    close(mean, 0.72)
    t = 0.95 * math.sqrt(2 / (1 - 0.95**2))  # of 2 degrees of freedom, in closed form: 4.3027
    assert half.item() == pytest.approx(t * 0.02 / math.sqrt(3), rel=1e-12)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_the_t_quantile_is_scipys(confidence):
    for df in range(1, 201):
        values = torch.zeros(df + 1, dtype=torch.float64)
        values[0] = math.sqrt(df + 1)  # standard deviation 1 and so a half-width of t / sqrt(n)
        t = metrics.mean_ci(values, confidence)[1].item() * math.sqrt(df + 1)
        assert t == pytest.approx(scipy.stats.t.ppf((1 + confidence) / 2, df), abs=1e-6)


@pytest.mark.parametrize("confidence", [1e-6, 0.01, 0.999, 0.999999])
def test_the_t_quantile_at_extreme_confidences(confidence):
    for df in (1, 2, 3, 10, 1001, 10_000):
        assert intervals._student_t(df, confidence) == pytest.approx(scipy.stats.t.ppf((1 + confidence) / 2, df), rel=1e-8)


@pytest.mark.parametrize(("runs", "confidence"), [(2, 0.95), (5, 0.95), (20, 0.95), (5, 0.5)])
def test_mean_ci_covers_the_true_mean_as_often_as_it_says(runs, confidence):
    experiments = 20_000
    draws = 0.7 + 0.1 * random.normal(random.key(runs), (runs, experiments), torch.float64)
    mean, half = metrics.mean_ci(draws, confidence)
    covered = ((mean - 0.7).abs() <= half).double().mean().item()
    assert abs(covered - confidence) < 4 * math.sqrt(confidence * (1 - confidence) / experiments)


def test_mean_ci_along_any_axis():
    values = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0))
    for dim in (0, 1, 2, -1):
        mean, half = metrics.mean_ci(values, dim=dim)
        moved_mean, moved_half = metrics.mean_ci(values.movedim(dim, 0))
        assert mean.shape == half.shape == values.mean(dim).shape
        torch.testing.assert_close(mean, moved_mean)
        torch.testing.assert_close(half, moved_half)


def test_one_run_has_a_mean_and_no_interval():
    mean, half = metrics.mean_ci(torch.tensor([[0.5, 0.7]]))
    assert torch.equal(mean, torch.tensor([0.5, 0.7]))
    assert half.isnan().all()
    assert half.shape == (2,)


def test_equal_runs_have_an_interval_of_zero():
    assert metrics.mean_ci(torch.full((5,), 0.5))[1].item() == 0


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: metrics.average_accuracy({"accuracy": torch.eye(2)}),
            r"R: .* got {accuracy: float32\[2, 2\]}; give history",
        ),
        (lambda: metrics.average_accuracy([[0.5]]), r"R: expected a floating tensor of accuracies, got .*; convert it with .float"),
        (lambda: metrics.average_accuracy(torch.ones(2, 2, dtype=torch.int64)), r"got int64\[2, 2\]"),
        (lambda: metrics.average_accuracy(torch.ones(3)), r"R: expected at least 2 dimensions.*\[..., time, T\]"),
        (lambda: metrics.average_accuracy(torch.ones(0, 2, 2)), "none empty"),
        (lambda: metrics.average_accuracy(R * 100), "R: accuracies lie in .*from 10 to 90; divide percentages by 100"),
        (lambda: metrics.average_accuracy(R - 0.2), "R: accuracies lie in"),
        (lambda: metrics.average_accuracy(torch.where(R > 0.8, torch.nan, R)), "R: some accuracies are NaN"),
        (lambda: metrics.average_accuracy(ONLINE), "seen: R has 4 times but 2 experiences; pass seen="),
        (lambda: metrics.forgetting(R[:2]), "seen: R has 2 times but 3 experiences"),
        (lambda: metrics.average_accuracy(ONLINE, [1, 2]), "seen: expected 4 integers"),
        (lambda: metrics.average_accuracy(R, [1, 2.0, 3]), "seen: expected 3 integers"),
        (lambda: metrics.average_accuracy(R, torch.tensor([1.0, 2.0, 3.0])), "seen: expected 3 integers"),
        (lambda: metrics.average_accuracy(R, [0, 1, 2]), "counts from 1 to the 3 experiences"),
        (lambda: metrics.average_accuracy(R, [1, 2, 4]), "counts from 1 to the 3 experiences"),
        (lambda: metrics.average_accuracy(R, [2, 1, 3]), "never decrease"),
        (lambda: metrics.forgetting(R, [1, 1, 1]), "forgetting needs a run that saw at least 2 experiences"),
        (lambda: metrics.backward_transfer(R, [1, 1, 1]), "backward transfer needs a run that saw at least 2"),
        (lambda: metrics.forward_transfer(R, BASELINE, [3, 3, 3]), "begins after the first time"),
        (lambda: metrics.forward_transfer(R, BASELINE[:2]), r"baseline: expected one accuracy per experience, \[3\]"),
        (lambda: metrics.forward_transfer(R, BASELINE * 100), "baseline: accuracies lie in"),
        (lambda: metrics.forward_transfer(R, 0.1), "baseline: expected a floating tensor"),
        (lambda: metrics.mean_ci([0.5, 0.6]), "values: expected a floating tensor"),
        (lambda: metrics.mean_ci(torch.tensor([1, 2])), "values: expected a floating tensor"),
        (lambda: metrics.mean_ci(torch.tensor(0.5)), "dim: 0 is no axis of values"),
        (lambda: metrics.mean_ci(torch.rand(3), dim=1), "dim: 1 is no axis of values"),
        (lambda: metrics.mean_ci(torch.rand(0, 2)), "axis 0 of .* is empty"),
        (lambda: metrics.mean_ci(torch.rand(3), confidence=95), "confidence: expected a finite number in"),
        (lambda: metrics.mean_ci(torch.rand(1), confidence=0), "confidence: expected a finite number in"),
    ],
)
def test_errors(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("name", [n for n in METRICS if "forgetting" in n or "transfer" in n])
def test_one_experience_has_nothing_to_forget_or_transfer(name):
    with pytest.raises(ValueError, match="at least 2 times and 2 experiences"):
        METRICS[name](torch.full((1, 1), 0.5))


def test_rounding_beyond_the_bounds_is_forgiven():
    metrics.average_accuracy(torch.full((2, 2), 1 + 5e-7, dtype=torch.float64))
