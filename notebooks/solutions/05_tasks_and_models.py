"""Solutions of notebook 05: `python notebooks/solutions/05_tasks_and_models.py` prints what the checks say to them."""

from zolab.models import load_model
from zolab.tasks import Example
from zolab.widgets import check


def how_many():
    n = 1
    while 1.96 * (0.25 / n) ** 0.5 > 0.05:  # at p = 1/2, whose interval has to end below 55 %
        n += 1
    return (n,)


def sum_instead_of_mean():
    model, tokenizer = load_model("smollm2-135m")
    slept = " she slept for ten hours and woke up refreshed in the morning."
    one = Example("Nora missed the last train so", (" she walked home.", slept), 0)
    counted = " one, two, three, four, five, six, seven, eight, nine, ten."
    other = Example("The child counted to ten:", (counted, " eleven."), 0)
    return model, tokenizer, one, other


def sharing():
    def ratio(passage, question, ending, count):
        rows = 2 * count * (passage + question + ending)
        return rows / (passage + count * (question + 2 * (ending - 1)))

    return (ratio,)


SOLUTIONS = {1: how_many, 2: sum_instead_of_mean, 3: sharing}

if __name__ == "__main__":
    for number, solution in SOLUTIONS.items():
        print(check("05", number, *solution()))
