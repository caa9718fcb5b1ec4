"""Numbers that summarise a run, from its accuracy matrix R: R[i, j] is the accuracy on test experience j at time i.

R is floating [..., time, T]; axes before the last two, such as seeds, are kept. (The history of a vmapped `scan` is
[time, S, T]: pass `R.movedim(0, -2)`.) All indices below count from 0.

Usually there is one time per training experience. If there are more or fewer (an online stream, `scan(..., every=10)`), pass `seen`
[time]: how many of the T experiences had been trained on, fully or in part, at each time. It determines what the definitions need:
    the newest experience at time i           seen[i] - 1
    the time at which j has been learned      the last one before the next experience begins
By default `seen` is 1..T, so that the newest experience at time i is i, and j has been learned at time j.

R may hold another measure than accuracies: say which way is better, `higher_is_better=False` for errors such as "mse", True for
"r2". Its values may be any finite numbers, while accuracies, and precisions, lie in [0, 1]. Forgetting is above 0 where it has
become worse, and a transfer where it has become better, whichever way that is; a mean has the sign of the values.

    Of R                              average_accuracy, average_anytime_accuracy, learning_accuracy, worst_case_accuracy,
                                      forgetting, forgetting_per_experience, forgetting_matrix, backward_transfer,
                                      forward_transfer
    Of a history of cl.trace.online   online_accuracy, online_error
    Over seeds                        mean_ci

These functions check values, so they run on results, not inside a traced or vmapped function.
"""

from cl_func.metrics.intervals import mean_ci
from cl_func.metrics.matrix import (
    average_accuracy,
    average_anytime_accuracy,
    backward_transfer,
    forgetting,
    forgetting_matrix,
    forgetting_per_experience,
    forward_transfer,
    learning_accuracy,
    worst_case_accuracy,
)
from cl_func.metrics.online import online_accuracy, online_error

__all__ = [
    "average_accuracy",
    "average_anytime_accuracy",
    "backward_transfer",
    "forgetting",
    "forgetting_matrix",
    "forgetting_per_experience",
    "forward_transfer",
    "learning_accuracy",
    "mean_ci",
    "online_accuracy",
    "online_error",
    "worst_case_accuracy",
]
