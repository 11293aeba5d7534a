"""From a checkpoint and widths to scores on other tasks."""
