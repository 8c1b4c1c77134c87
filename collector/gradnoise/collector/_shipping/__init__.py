"""From a dump to an analyzer: the process beside the training, and what the training knows of it."""
