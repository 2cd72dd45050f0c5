// What was tested, where, under which load, and what was the verdict?
MATCH (r:Run {run_id: $run})
RETURN r.experiment AS experiment, r.title AS title, r.expect AS expect, r.weakness AS weakness, r.seed AS seed,
       r.started_us AS started_us, r.ended_us AS ended_us, r.duration_s AS duration_s, r.verdict AS verdict, r.judged_us AS judged_us,
       r.git_commit AS git_commit, r.cluster_kind AS cluster_kind, r.cluster_context AS cluster_context,
       r.server_version AS server_version, r.nodes AS nodes, r.nodes_count AS nodes_count, r.load_tool AS load_tool, r.load_rate_per_s AS load_rate_per_s, r.file AS file
