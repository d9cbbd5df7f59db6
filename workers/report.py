"""The table at the end of a run: what it did, what it could not do and why, and how fast it was."""

from workers.storage.uris import shown
from workers.summaries import RunSummary
from workers.wording import duration

FAILURES_SHOWN = 5
MILLION = 1_000_000
REASONS_SHOWN = 5


def describe_run(summary: RunSummary) -> str:
    """The table at the end."""
    done = summary.shards - len(summary.failures)
    asked = f"; the model had {summary.at_once:.0f} questions under way on average"
    whose = " in the shards that this start committed" if summary.failures else ""
    lines = [
        f"run        {summary.run_id}",
        f"shards     {done:,} of {summary.shards:,} committed, {summary.found_committed:,} of them"
        " before this start",
        f"rows       {sum(summary.counts.values()):,}{whose}",
        *(f"  {status:<15}{count:>10,}" for status, count in sorted(summary.counts.items())),
        *_reasons(summary),
        f"masks      {summary.targets:,}",
        f"time       {duration(summary.seconds)}{asked if summary.at_once else ''}",
        *_pace(summary),
        f"labels     {shown(summary.output)}",
    ]
    if summary.reused:
        lines.insert(-2, f"reused     {summary.reused:,} of the rows, from earlier runs")
    for shard_id, why in list(summary.failures.items())[:FAILURES_SHOWN]:
        lines.append(f"not done   {shard_id}: {why}")
    if more := len(summary.failures) - FAILURES_SHOWN:
        lines += [f"           and {more:,} more"] if more > 0 else []
    return "\n".join(lines)


def _pace(summary: RunSummary) -> list[str]:
    """What a pilot is for: how long a large input would take."""
    if not summary.pace:
        return []
    pace, million = f"{summary.pace:,.1f}", duration(MILLION / summary.pace)
    return [f"pace       {pace} questions/s with the model loaded: {million} a million"]


def _reasons(summary: RunSummary) -> list[str]:
    """Why rows have no answer, the commonest first; `error_message` of each row says more."""
    common = sorted(summary.errors.items(), key=lambda each: (-each[1], each[0]))
    told = [f"{code} {count:,}" for code, count in common[:REASONS_SHOWN]]
    if more := len(common) - REASONS_SHOWN:
        told += [f"{more} more"] if more > 0 else []
    behind = "; the column error_message says more of each"
    return [f"reasons    {', '.join(told)}{behind}"] if told else []
