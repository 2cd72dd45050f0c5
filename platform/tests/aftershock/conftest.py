"""Collection: the golden run's experiment files are data here, and no experiments to run."""

collect_ignore_glob = ["golden/*"]
