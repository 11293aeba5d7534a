"""From a checkpoint and widths to scores on other tasks."""

ALL = "all"  # in place of a task: whatever entries files say
