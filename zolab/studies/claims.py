"""CLAIMS.md: what the two papers claim, what was run here, and what came of it, judged from the kept records by fixed rules.

A claim that a number is lower holds where the 95 % interval of the mean over tasks lies below zero, or where Holm's correction
leaves it decided on more than half of the tasks; otherwise it is not seen. If networks permuted or never trained do as well as
a fine-tuner, its gain holds with a correction: it is not what was learned. Without a record a claim is not testable here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zolab.records import kept_records
from zolab.studies import evidence
from zolab.studies.finding import Finding

HEAD = """# Claims

Written by `python -m zolab results` from the records in this folder, by the rules in `zolab/studies/claims.py`; a test fails
where file and records disagree.

- *Holds*: the interval excludes no effect, in the claimed direction, or a named threshold is kept. *Holds with a correction*:
  what is true is not quite what is printed. *Not seen*: our runs do not decide for it, which is no proof against it. *Not
  testable here*: nothing was run.
- Our runs are of small models for a hundred or so steps; the papers' are of models of 0.4 to 30 billion weights for 10,000 and
  more. Differences are paired by seed, with 95 % intervals; the first record decides. Older records searched rates on the seeds
  that they report (`RESULTS.md` says which). Plans of the papers' own runs are in `notebooks/plans/`.
"""


@dataclass(frozen=True)
class Claim:
    """A claim of a paper.

    Args:
        key: its number here.
        title: in a few words.
        says: what the paper says, and where.
        judge: a finding from the kept records, by file name without its end; None where the records it needs are not there.
    """

    key: str
    title: str
    says: str
    judge: Callable[[Mapping[str, Any]], Finding | None]


CLAIMS = (
    Claim(
        "ZF1",
        "lower training loss than any other method",
        "lowest loss in 82.1 % of cells (arXiv 2510.00419, Table 1)",
        evidence.lowest_loss,
    ),
    Claim("ZF2", "higher accuracy than MeZO", "2.5 % more on average (2510.00419, Table 1)", evidence.accuracy),
    Claim(
        "ZF3",
        "the budget of the scales helps",
        "with normalisation SQuAD's loss on 8B falls from 0.395 to 0.307 (2510.00419, Table 2)",
        evidence.budget,
    ),
    Claim(
        "ZF4",
        "putting the model back helps",
        "resets lower the loss, with and without normalisation (2510.00419, Table 2)",
        evidence.reset,
    ),
    Claim(
        "ZF5",
        "a network for each tensor beats one for each layer",
        "lower loss in four of four cells (2510.00419, Table 4)",
        evidence.blocks,
    ),
    Claim(
        "ZF6",
        "a fine-tuner serves tasks that it was not trained on",
        "trained on COPA, used on seven tasks (2510.00419, Table 1 and Figure 6)",
        evidence.other_tasks,
    ),
    Claim(
        "ZF7",
        "a fine-tuner serves models derived from its own",
        "that of 8B lowers the loss of 8B-Instruct (2510.00419, Table 3)",
        evidence.derivative,
    ),
    Claim("ZF8", "less sensitive to the learning rate", "its loss changes less with the rate (2510.00419)", evidence.rates),
    Claim("ZF9", "as little memory as MeZO", "5 GB for both on 1B, 21 beside 20 on 8B (2510.00419, Table 7)", evidence.memory),
    Claim("ZF10", "the scales take little time", "less than 3.4 % of a step (2510.00419, Table 6)", evidence.time),
    Claim("ZF11", "Theorems 1 to 3", "a tighter bound with scales for each block (2510.00419)", evidence.theory),
    Claim(
        "ZF12",
        "the released networks are learned",
        "their scales come from meta-training (2510.00419, code)",
        evidence.released,
    ),
    Claim("AM1", "fewer forward passes", "up to 70 % fewer than MeZO (arXiv 2605.00650)", evidence.passes),
    Claim("AM2", "hardly more memory", "1.07 times MeZO's (2605.00650, Table 4)", evidence.adamezo_memory),
    Claim("AM3", "adapts to curvature", "shorter ways on functions of two variables (2605.00650, Figure 1)", evidence.walks),
    Claim(
        "AM4",
        "the second moment helps",
        "better than the first moment alone on three of three tasks (2605.00650, Table 9)",
        evidence.second_moment,
    ),
)


def claims(records: Mapping[str, Any]) -> str | None:
    """The page, Markdown; None where no record says anything about a claim.

    Args:
        records: contents of the kept records, by file name without its end.
    """
    findings = {claim: claim.judge(records) for claim in CLAIMS}
    if not any(findings.values()):
        return None
    lines = [HEAD, "| claim | | verdict |", "| --- | --- | --- |"]
    lines += [f"| {claim.key} | {claim.title} | {_verdict(finding)} |" for claim, finding in findings.items()]
    for claim, finding in findings.items():
        lines += ["", f"## {claim.key}: {claim.title}", "", f"**{_verdict(finding)}**", "", f"- The paper: {claim.says}."]
        if finding is not None:
            linked = ", ".join(f"[`{stem}`](records/{stem}.json)" for stem in finding.records)
            lines += [
                f"- We ran: {finding.ran}.",
                *(f"- {number[0].upper()}{number[1:]}." for number in finding.numbers),
                f"- Records: {linked}.",
            ]
    return "\n".join([*lines, ""])


def claims_page(folder: Path) -> str | None:
    """`claims` of all records of a folder."""
    return claims(kept_records(folder))


def _verdict(finding: Finding | None) -> str:
    return "not testable here" if finding is None else finding.verdict
