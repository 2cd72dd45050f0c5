// Which runs does the graph hold, newest first?
MATCH (r:Run)
RETURN r.run_id AS run, r.experiment AS experiment, r.verdict AS verdict, r.weakness AS weakness, r.started_us AS started_us
ORDER BY coalesce(r.started_us, 0) DESC, run SKIP $skip LIMIT $limit
